"""The table of exact margins: what is solved, what the attacks missed, and what is not solved."""

import sys

import pytest

from marginbench.benchmarks.speed import exact as exact_speed
from marginbench.benchmarks.speed.exact import Point, report


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_counts_what_it_says() -> None:
    points = [
        Point(image=3, attacked=0.1, lower=0.0999, upper=0.1, solved=True, seconds=1.0),
        Point(image=4, attacked=0.11, lower=0.0999, upper=0.1, solved=True, seconds=2.0),
        Point(image=6, attacked=0.15, lower=0.0999, upper=0.1, solved=True, seconds=3.0),
        Point(image=8, attacked=0.3, lower=0.05, upper=0.2, solved=False, seconds=60.0),
    ]
    lines = report({"ce": points, "pmm": points[:1]}).splitlines()
    assert cells(lines[2]) == ["ce", "4", "3", "16.50", "2.50", "60.00", "2", "30.0%", "50.0%"]
    assert cells(lines[3]) == ["pmm", "1", "1", "1.00", "1.00", "1.00", "0", "-", "-"]
    assert [cells(line) for line in lines[-1:]] == [["ce", "8", "0.05000", "0.20000", "60.00"]]
    assert report({"pmm": points[:1]}).endswith("All points are solved.")


@pytest.mark.parametrize("limit", ["20", "0"])
def test_it_runs_from_training_to_table(
    limit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["exact_speed", "--points", "2", "--width", "2", "--time-limit", limit, "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", words)
    exact_speed.main()
    out = capsys.readouterr().out
    method, points, solved = cells(out.splitlines()[2])[:3]
    assert (method, points) == ("ce", "2")
    assert (int(solved) > 0) == (limit == "20")
    assert out.count("| ce ") == 1 + 2 - int(solved), "a line for each point that is not solved"
    assert "64-4-2-10 network" in out
