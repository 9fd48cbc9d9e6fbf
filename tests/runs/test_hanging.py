"""A run that hangs is killed at its deadline, and its record says where; the others go on."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from processes import MARGINBENCH, Start, wait_for

from marginbench.benchmarks import RunOptions, run_all
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.machine.deadline import Deadline, DeadlineError, alarm, patience
from marginbench.benchmarks.registry import REGISTRIES
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.plan import make_plan
from marginbench.benchmarks.runs.worker import STARTING, Setup, Worker
from marginbench.benchmarks.runs.workers import seen_elsewhere
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import Info, MarginbenchError, create
from marginbench.methods.baselines.ce import CE

PLUGIN = """
import ctypes
import time
from pathlib import Path
from typing import ClassVar
from marginbench.methods import Info, Method

class {owner}(Method):
    "L = CE(z, y), and hangs"
    info: ClassVar[Info] = Info(
        key="{key}", title="t", family="baselines", paper="p", section="s", year=2026, neutral="none: hangs")
    def {hook}:
        Path(__file__).with_suffix(".hangs").touch()
        {how}
"""
C_CODE = "ctypes.PyDLL(None).pause()"  # with the global lock: no thread of Python runs meanwhile
HANGS = {  # key: hook, how it hangs, where the record says it was
    "sleeps": ("loss(self, net, batch, ctx)", "time.sleep(1e6)", "in epoch 1 of 2"),
    "waits": ("certify(self, net, x, norm)", C_CODE, "in own_l2"),
    "spins": ("finish(self, net, data, ctx)", "while True: pass", "while the training was finished"),
}
needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs the signals of Unix")


def plugin(folder: Path, key: str) -> Path:
    hook, how, _ = HANGS[key]
    path = folder / f"{key}.py"
    path.write_text(PLUGIN.format(owner=key.title(), key=key, hook=hook, how=how))
    return path


@needs_signals
@pytest.mark.parametrize(("jobs", "keys"), [(1, tuple(HANGS)), (2, ("sleeps",))])
def test_what_hangs_is_killed_and_the_others_go_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, keys: tuple[str, ...]
) -> None:
    def left(worker: Worker) -> float:
        """The time is up as soon as it hangs."""
        hangs = any((tmp_path / f"{cell.method.info.key}.hangs").exists() for cell in worker.at)
        return 0.0 if hangs else 0.1

    monkeypatch.setattr(Worker, "left", property(left))
    files = [plugin(tmp_path, key) for key in keys]
    outcome = run_all(str(tiny), [*files, "ce", "svm"], 1, "cpu", tmp_path / "out", jobs=jobs, deadline=900)
    errors = {record.method: record.error for record in outcome.records}
    assert errors.pop("ce") is None and errors.pop("svm") is None and errors.keys() == set(keys)
    for key in keys:
        hook, _, where = HANGS[key]
        text = f"deadline: its 900 s were over {where}, and it hung ({key}.py, line {{}}, in {hook.partition('(')[0]})"
        assert errors[key] in (text.format(13), text.format(14)), "as it hangs, or a moment before"
    assert not list(outcome.runs.glob("*.lock")), "killed workers leave no locks"
    assert run_all(str(tiny), files, 1, "cpu", tmp_path / "out").repeated == 0


@needs_signals
def test_ctrl_c_ends_a_run_that_hangs(tiny: Path, tmp_path: Path, start: Start) -> None:
    path = plugin(tmp_path, "waits")
    words = ("--suite", tiny, "--out", tmp_path / "out", "--jobs", "1", "--deadline", "900")
    process = start(MARGINBENCH, "run-all", *words, "--methods", path)
    wait_for(path.with_suffix(".hangs").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130 and "finished runs are kept" in process.err
    wait_for(lambda: not process.group())


def test_a_deadline_changes_no_number(tiny: Path, tmp_path: Path) -> None:
    """The process that is watched computes with as many threads as this one would."""
    threads = torch.get_num_threads()
    records = []
    for number in (1, 2):
        torch.set_num_threads(number)
        try:
            for deadline in (None, 900.0):
                out = tmp_path / f"{number}-{deadline}"
                records += run_all(str(tiny), ["ce"], 1, "cpu", out, deadline=deadline).records
        finally:
            torch.set_num_threads(threads)
    (here, watched), (here_2, watched_2) = records[:2], records[2:]
    assert here.metrics == watched.metrics and here.losses == watched.losses
    assert here_2.metrics == watched_2.metrics and here_2.losses == watched_2.losses


def test_how_long_a_worker_may_take(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = make_plan(load_suite(str(tiny)), [create("ce")], [0], "data")
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    for deadline, at_work in ((None, None), (60.0, patience(60.0) - 7.0)):
        job = Job(RunOptions(deadline=deadline), load_suite(str(tiny)), tmp_path, tmp_path)
        worker = Worker.__new__(Worker)  # without a process
        worker.setup = Setup(job, (), torch.device("cpu"), 0, 1, 1)
        worker.cells, worker.at, worker.ready, worker.busy, worker.since = [], [], False, False, now - 7.0
        assert worker.left == STARTING - 7.0
        worker.ready = True
        assert worker.left is None, "it waits for work"
        worker.cells, worker.busy = [cell], True
        assert worker.left == (None if deadline is None else STARTING - 7.0), "it tries how many go together"
        worker.begins([cell.id])
        worker.since = now - 7.0
        assert worker.left == at_work
        worker.since = now - 1e6
        assert worker.left == (None if deadline is None else 0.0)
    assert patience(1e-9) >= 30 and patience(3600.0) > 3600.0


def test_a_worker_that_hangs_before_its_first_run_is_no_run_that_failed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_template("homesick", tmp_path)
    there = "import multiprocessing, time\nif multiprocessing.parent_process() is not None:\n    time.sleep(1e6)\n"
    path.write_text(f"{path.read_text()}\n{there}")
    monkeypatch.setattr("marginbench.benchmarks.runs.worker.STARTING", 1.0)
    with pytest.raises(MarginbenchError, match=r"a worker process cannot get ready: .* were over"):
        run_all(str(tiny), ["ce", "svm"], 1, "cpu", tmp_path / "out", jobs=2, plugin=[path])


@needs_signals
def test_an_import_that_hangs_is_interrupted(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slow.py"
    path.write_text("import time\n\ntime.sleep(1e6)\n")
    monkeypatch.setattr("marginbench.benchmarks.runs.work.patience", lambda seconds: seconds)
    with pytest.raises(MarginbenchError, match=r"slow\.py, line 3: DeadlineError: 1 s were over while plug-ins were"):
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", plugin=[path], deadline=1.0)
    with alarm(0.01, DeadlineError("enough")), pytest.raises(DeadlineError, match="enough"):
        time.sleep(1e6)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_was_defined_in_this_session_runs_here(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Mine(CE):
        """L = CE(z, y)."""

        info: ClassVar[Info] = replace(CE.info, key="of_this_session")

    def cells(*methods: CE) -> list[object]:
        return make_plan(load_suite(str(tiny)), methods, range(1), "data")  # type: ignore[return-value]

    assert seen_elsewhere(cells(CE())) and not seen_elsewhere(cells(CE(), Mine()))  # type: ignore[arg-type]
    outcome = run_all(str(tiny), [Mine], 1, "cpu", tmp_path, deadline=900)
    assert outcome.failed == 0 and "a run that hangs is not stopped" in capsys.readouterr().err
    thing = type("Thing", (), {"__module__": "__main__"})
    REGISTRIES[0].add("of_this_session", thing)
    try:
        assert not seen_elsewhere(cells(CE()))  # type: ignore[arg-type]
    finally:
        REGISTRIES[0].drop(["of_this_session"])


def test_a_deadline_tells_where_the_run_is() -> None:
    told: list[str] = []
    deadline = Deadline(tell=told.append)
    deadline.enter("in epoch 1")
    deadline.check("before doubts")
    Deadline().enter("nowhere")
    assert told == ["in epoch 1"]
