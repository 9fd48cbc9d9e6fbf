"""`run-all --report`: the page follows the runs, and never stops them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import Run

from marginbench.benchmarks import run_all
from marginbench.benchmarks.records.reader import read_records

Calls = list[tuple[int, bool]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How many records there were at each report, and whether it was to map features."""
    return standing_in(monkeypatch, lambda: None)


def standing_in(monkeypatch: pytest.MonkeyPatch, first: Callable[[], None]) -> Calls:
    calls: Calls = []

    class Page:
        def save(self, path: Path) -> Path:
            path.write_text(f"report {len(calls)}")
            return path

    def report(folders: Sequence[Path], *, features: Sequence[str] | None, data_dir: Any) -> Page:
        calls.append((len(read_records(folders)), features is None))
        first()
        return Page()

    monkeypatch.setattr("marginbench.benchmarks.reports.make.report", report)
    return calls


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_follows_the_seeds(tiny: Path, tmp_path: Path, calls: Calls, jobs: int) -> None:
    outcome = run_all(str(tiny), seeds=3, device="cpu", out=tmp_path, jobs=jobs, report=True)
    counts = [count for count, _ in calls]
    assert counts[-1] == 6 and counts == sorted(counts)
    assert [features for _, features in calls] == [False] * (len(calls) - 1) + [True]
    if jobs == 1:
        assert counts == [2, 4, 6]
    assert outcome.report == tmp_path / "tiny" / "report.html"
    assert outcome.report.read_text() == f"report {len(calls)}"


def test_it_is_written_where_nothing_is_left_to_do(tiny: Path, tmp_path: Path, calls: Calls, run: Run) -> None:
    words = ("run-all", "--suite", tiny, "--seeds", "1", "--out", tmp_path)
    assert f"Report:  marginbench report {tmp_path / 'tiny'} --open" in run(*words)[1] and calls == []
    code, out, _ = run(*words, "--report")
    assert code == 0 and calls == [(2, True)] and f"Report:  {tmp_path / 'tiny' / 'report.html'}" in out


def test_a_failure_is_a_warning(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("no such figure")

    standing_in(monkeypatch, fail)
    outcome = run_all(str(tiny), seeds=2, device="cpu", out=tmp_path, report=True, progress=False)
    assert outcome.report is None and outcome.repeated == 4 and outcome.failed == 0
    assert caplog.text.count("report.html was not written: ValueError: no such figure") == 2


def test_it_needs_evaluations(run: Run, tiny: Path) -> None:
    code, _, err = run("run-all", "--suite", tiny, "--only", "train", "--report")
    assert code == 2 and "--report" in err and "needs an evaluation" in err
