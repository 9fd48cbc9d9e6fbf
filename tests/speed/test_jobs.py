"""The script runs commands on the cores it says, and compares them with the last way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marginbench.benchmarks.machine.device import CORES
from marginbench.benchmarks.speed import jobs as jobs_speed
from marginbench.benchmarks.speed.turns import Turns

TELL = """
import os, sys
with open(os.environ["TOLD"], "a") as file:
    file.write(f"{sys.argv[sys.argv.index('--jobs') + 1]} {sorted(os.sched_getaffinity(0))}\\n")
"""


def test_the_ways_are_compared_with_a_job_for_each_core(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The commands run, and say how many jobs on which cores they were asked for."""
    told = tmp_path / "told"
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setattr(sys, "argv", ["jobs_speed", "--methods", "ce", "--seeds", "1"])
    monkeypatch.setattr(jobs_speed, "COMMAND", [sys.executable, "-SEc", TELL])
    here = os.sched_getaffinity(0)
    jobs_speed.main()
    assert os.sched_getaffinity(0) == here
    all_cores = len(CORES)
    assert told.read_text().splitlines() == [f"1 {CORES[:1]}", f"1 {CORES}", f"{all_cores} {CORES}"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    names = ["1 job on 1 core", f"1 job on {all_cores} cores", f"{all_cores} jobs on {all_cores} cores"]
    assert [row[0] for row in rows[2:]] == names and rows[-1][2] == "1.00"


def test_a_command_that_fails_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_speed, "COMMAND", [sys.executable, "-SEc", "raise SystemExit(3)"])
    with pytest.raises(subprocess.CalledProcessError):
        jobs_speed.run_on(CORES[:1], 1, [])


def test_medians_are_relative_to_the_last_way() -> None:
    lines = jobs_speed.report(Turns({"one": [9.0, 6.0, 60.0], "all": [3.0, 2.0, 30.0]}, {})).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows == [["one", "9.0", "3.00"], ["all", "3.0", "1.00"]]
