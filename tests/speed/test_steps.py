"""The table of steps: medians, ratios within a round, and a mark for what neither passes nor operations explain."""

import sys

import pytest

from marginbench.benchmarks.speed import steps as step_speed
from marginbench.benchmarks.speed.turns import Turns


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_compares_within_rounds() -> None:
    """Each round is slower than the one before; `slow` costs four times as much as its passes, `fgsm` what they say."""
    seconds = {"ce": [0.1, 0.2, 0.4], "fgsm": [0.2, 0.4, 0.8], "slow": [0.4, 0.8, 1.6]}
    costs = {"ce": (1.0, 1.0, 100), "fgsm": (2.0, 2.0, 200), "slow": (1.0, 1.0, 110)}
    lines = step_speed.report(Turns(seconds, {}), costs, steps=10).splitlines()
    assert cells(lines[2]) == ["ce", "20.00", "1.00", "1.0", "1.0", "1.0", "1.0", ""]
    assert cells(lines[3]) == ["fgsm", "40.00", "2.00", "2.0", "2.0", "2.0", "2.0", ""]
    assert cells(lines[4]) == ["slow", "80.00", "4.00", "1.0", "1.0", "1.0", "1.1", "look"]


def test_operations_explain_what_passes_do_not() -> None:
    costs = {"ce": (1.0, 1.0, 100), "bounds": (1.0, 1.0, 300)}
    lines = step_speed.report(Turns({"ce": [0.1], "bounds": [0.4]}, {}), costs, steps=1).splitlines()
    assert cells(lines[3])[-2:] == ["3.0", ""]


def test_it_runs_from_training_to_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "steps.py --methods input_grad_reg --rounds 1 --steps 1 --size 8 --batch 16 --device cpu"
    monkeypatch.setattr(sys, "argv", words.split())
    step_speed.main()
    lines = capsys.readouterr().out.splitlines()
    assert [cells(line)[0] for line in lines[2:4]] == ["ce", "input_grad_reg"]
    assert cells(lines[2])[3:7] == ["1.0"] * 4
    assert "images 1x8x8, batch 16, cpu" in lines[-1]
