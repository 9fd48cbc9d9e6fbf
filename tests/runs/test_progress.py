"""What is said while nothing ends: which runs are in progress, and that a cluster has no workers."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for

from marginbench.benchmarks.runs import cluster, progress
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.progress import Progress
from marginbench.benchmarks.runs.work import prepare


@pytest.fixture
def reporter(tiny: Path, tmp_path: Path) -> Progress:
    """Of two runs that are to be done."""
    work = prepare(str(tiny), out=tmp_path / "out")
    work.runs.mkdir(parents=True)
    return Progress(work, 1)


def test_what_is_in_progress_is_named(reporter: Progress, tmp_path: Path) -> None:
    assert reporter.sign_of_life() == "[0/2] after 0 s: no run in progress is seen from here"
    runs = tmp_path / "out" / "tiny" / "runs"
    with lock(runs, "a" * 64, "ce", 0), lock(runs, "b" * 64, "svm", 3):
        text = reporter.sign_of_life()
        assert "in progress: " in text and "ce seed 0 for 0 s" in text and "svm seed 3 for 0 s" in text
        with lock(runs, "c" * 64, "x", 1), lock(runs, "d" * 64, "y", 1), lock(runs, "e" * 64, "z", 1):
            assert reporter.sign_of_life().endswith(", 1 more")


def test_silence_is_broken(
    reporter: Progress, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    with caplog.at_level(logging.INFO), reporter:
        wait_for(lambda: sum("after 0 s: no run" in message for message in caplog.messages) >= 2)
    assert caplog.messages[0].startswith("2 runs to do") and caplog.messages[-1] == "0 of 2 runs done"


def test_a_long_evaluation_says_what_it_is_at(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    before = {*threading.enumerate()}
    with caplog.at_level(logging.INFO), progress.alive("mine") as deadline:
        wait_for(lambda: "mine after 0 s: in preparation" in caplog.messages)
        deadline.enter("in crown_l2")
        wait_for(lambda: "mine after 0 s: in crown_l2" in caplog.messages)
    assert {*threading.enumerate()} <= before, "nobody speaks afterwards"


def test_a_cluster_without_workers_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Client:
        workers: dict[str, Any]

        def scheduler_info(self, **_: int) -> dict[str, Any]:
            return {"workers": self.workers}

    client, there = Client(), None
    with caplog.at_level(logging.INFO):
        for workers in ({}, {}, {"a": {}, "b": {}}, {"a": {}}, {}):
            client.workers = workers
            there = cluster._report_workers(client, "tcp://host:8786", there)
    none = (
        "the cluster has no workers: waiting for the first; start one with `dask worker --nthreads 1 tcp://host:8786`"
    )
    assert caplog.messages == [none, "the cluster has 2 workers now", none]
