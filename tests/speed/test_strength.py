"""The table by which attacks are chosen: a list is compared with the nearest points of all lists."""

import sys

import pytest
import torch

from marginbench.benchmarks.speed import strength


def test_rows_of_all_lists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(strength, "LISTS", {"far": {"blend": {}}, "near": {"fmn": {"steps": 20}}})
    monkeypatch.setattr(sys, "argv", ["strength.py", "--methods", "ce", "--points", "12", "--device", "cpu"])
    strength.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ce")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:3] for row in rows] == [["ce", norm, name] for norm in ("l2", "linf") for name in ("far", "near")]
    for far, near in (rows[:2], rows[2:]):
        assert float(far[6].rstrip("%")) > 20 and near[6] == "0.0%"
        assert float(far[4]) == 0 < float(near[4]) and near[7:] == ["0.0"] * 3


def test_points_of_robust_accuracy_above_the_best() -> None:
    """At 0.5, 1 and 2: one of four points is near enough for the best alone at 0.5, one at 1, none at 2."""
    best, distance = torch.tensor([0.4, 0.9, 1.5, 3.0]), torch.tensor([0.6, 1.2, 1.6, 3.0])
    longer, *above = strength.excess(distance, best, 1.0)
    assert longer == pytest.approx(6.4 / 5.8 - 1) and above == [25.0, 25.0, 0.0]
    assert strength.excess(torch.tensor([1.1, 1.0]), torch.tensor([0.9, 1.0]), 1.0)[2] == 50.0
