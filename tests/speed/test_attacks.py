"""The tables of attacks: seconds of parts are summed, those of whole runs averaged, and the best attack counts."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.speed import attacks as attack_speed
from marginbench.benchmarks.speed import turns


def test_both_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """torchattacks takes 3 s for each of its parts; ours, for all points, 1 s and then 2."""
    parts, take_turns = [], turns.take_turns

    def timed(ways: dict[str, Callable[[Any], Any]], rounds: list[Any], clock: turns.Clock) -> turns.Turns[Any]:
        parts.extend(rounds)
        found = take_turns(ways, rounds, clock)
        assert {name: len(seconds) for name, seconds in found.seconds.items()} == dict.fromkeys(ways, 2)
        return turns.Turns({attack_speed.THEIRS: [3.0, 3.0], attack_speed.OURS: [1.0, 2.0]}, found.results)

    monkeypatch.setattr(turns, "take_turns", timed)
    monkeypatch.setattr(sys, "argv", ["attacks.py", "--points", "12", "--rival-points", "43", "--device", "cpu"])
    attack_speed.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    points = sum(len(y) for _, y in parts)
    assert rows[0][0] == f"DeepFool, L2, {points} points" and 40 < points <= 43
    assert rows[2][:3] == [attack_speed.OURS, "1.500", "4.0"]
    assert rows[3][:3] == [attack_speed.THEIRS, "6.000", "1.0"]

    quick = list(PRESETS["quick"])
    assert [row[:2] for row in rows[6:]] == [[name, norm] for norm in ("l2", "linf") for name in [*quick, "all"]]
    for begin in (6, 6 + len(quick) + 1):
        *each, best = (float(row[5]) for row in rows[begin : begin + len(quick) + 1])
        assert best <= min(each)


def test_failures_are_a_share() -> None:
    distance = torch.tensor([1.0, torch.inf, 3.0, 2.0])
    assert attack_speed._summary(distance) == (2.0, 0.25)
