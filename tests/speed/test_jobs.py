"""The script runs commands on the cores it says, and compares them with the last way."""

import sys
from collections.abc import Sequence

import pytest

from marginbench.benchmarks.machine.device import CORES
from marginbench.benchmarks.speed import jobs as jobs_speed


def test_the_ways_are_compared_with_a_job_for_each_core(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def seconds(arguments: Sequence[str], cores: Sequence[int]) -> float:
        asked.append((arguments[-1], len(cores)))
        return 40.0 / len(asked)

    monkeypatch.setattr(sys, "argv", ["jobs_speed", "--methods", "ce", "--seeds", "1"])
    monkeypatch.setattr(jobs_speed, "seconds", seconds)
    monkeypatch.setattr(jobs_speed, "CORES", [0, 1, 2, 3])
    jobs_speed.main()
    assert asked == [("1", 1), ("1", 4), ("4", 4)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert rows[2:] == [
        ["1 job on 1 core", "40.0", "3.00"],
        ["1 job on 4 cores", "20.0", "1.50"],
        ["4 jobs on 4 cores", "13.3", "1.00"],
    ]


def test_a_command_has_the_cores_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import os; raise SystemExit(os.sched_getaffinity(0) != {{{CORES[0]}}})"
    monkeypatch.setattr(jobs_speed, "COMMAND", [sys.executable, "-c", code])
    assert jobs_speed.seconds([], CORES[:1]) > 0
