"""Worker processes: the same records as in one process, plug-ins included, and no silence when one is killed."""

import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from made import a_record

from marginbench.benchmarks import RunOptions, load, run_all
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.machine import budget
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs import worker
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.plan import Cell, Row, make_plan
from marginbench.benchmarks.runs.progress import Eta
from marginbench.benchmarks.runs.worker import Setup, share_of
from marginbench.benchmarks.runs.workers import MEMORY, choose_jobs, plugin_files, run_in_workers
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError, create
from marginbench.methods.errors import ParameterError

CPU = torch.device("cpu")


def test_workers_write_what_one_process_writes(tiny: Path, tmp_path: Path) -> None:
    load_plugin(write_template("my_margin", tmp_path))
    methods = ["ce", "arcface(s=8)", "my_margin"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has: sums in another order round otherwise
    try:
        run_all(str(tiny), methods, 1, "cpu", tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    outcome = run_all(str(tiny), methods, 1, "cpu", tmp_path / "two", jobs=2)
    assert outcome.repeated == 3 and set(outcome.table["method"]) == {"ce", "arcface(s=8)", "my_margin"}
    timed = ["path", "seconds", "evaluation_seconds"]
    one, two = (load(tmp_path / name).drop(columns=timed) for name in ("one", "two"))
    assert one.to_dict("records") == two.to_dict("records")


def test_workers_know_what_plugins_add_to_a_suite(tiny: Path, tmp_path: Path) -> None:
    plugin = Path(__file__).parents[1] / "doors" / "my_probe.py"
    tiny.write_text(tiny.read_text() + "[evaluation.mirror]\nvertical = true\n")
    outcome = run_all(str(tiny), ["ce", "svm"], 1, "cpu", tmp_path / "out", jobs=2, plugin=[plugin])
    assert outcome.failed == 0 and all("mirror_agreement" in record.metrics for record in outcome.records)


def test_a_run_whose_parent_was_killed_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where it is before it sees that the parent has gone."""

    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    ours, theirs = multiprocessing.Pipe()
    ours.close()
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        worker._say(theirs, worker.Message("at", "in epoch 3", "a" * 64))
    theirs.close()


def test_a_killed_worker_is_reported(tiny: Path, tmp_path: Path) -> None:
    path = write_template("deadly", tmp_path)
    line = "        return Loss"
    path.write_text(path.read_text().replace(line, f"        __import__('os').abort()\n{line}"))
    load_plugin(path)
    with pytest.raises(MarginbenchError, match="worker process was killed"):
        run_all(str(tiny), ["ce", "deadly"], 1, "cpu", tmp_path / "out", jobs=2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes in other ways")
def test_a_killed_worker_leaves_no_semaphore(tiny: Path, tmp_path: Path) -> None:
    """Libraries make locks, as tqdm does. Twin: by Python's default each has a file until this process ends."""
    path, note = write_template("locking", tmp_path), tmp_path / "name"
    line = "        return Loss"
    made = f"open({str(note)!r}, 'w').write(str(__import__('multiprocessing').Lock()._semlock.name))"
    path.write_text(path.read_text().replace(line, f"        {made}\n        __import__('os').abort()\n{line}"))
    load_plugin(path)
    with pytest.raises(MarginbenchError, match="worker process was killed"):
        run_all(str(tiny), ["ce", "locking"], 1, "cpu", tmp_path / "out", jobs=2)
    assert note.read_text() == "None", "its file is gone as soon as it is made"


def test_a_worker_that_cannot_get_ready_says_why(tiny: Path, tmp_path: Path) -> None:
    path = write_template("homesick", tmp_path)
    there = "import multiprocessing\nif multiprocessing.parent_process() is not None:\n    raise OSError('not here')\n"
    path.write_text(f"{path.read_text()}\n{there}")
    with pytest.raises(MarginbenchError, match=r"a worker process cannot get ready: plug-in .*OSError: not here"):
        run_all(str(tiny), ["ce", "svm"], 1, "cpu", tmp_path / "out", jobs=2, plugin=[path])


def test_an_error_about_a_parameter_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ParameterError("seeds", 0, "must be at least 1")))
    assert str(error) == "seeds=0: must be at least 1" and error.parameter == "seeds"


def test_a_method_of_this_session_needs_one_process(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(create("arcface"))
    mine = type("Mine", (cls,), {"__doc__": cls.__doc__, "__module__": "__main__"})
    suite = load_suite(str(tiny))
    cells = make_plan(suite, [mine()], range(1), "data")
    with pytest.raises(MarginbenchError, match="jobs=1"):
        plugin_files(cells)
    assert plugin_files(make_plan(suite, [create("ce")], range(1), "data")) == ()


@pytest.mark.parametrize(("forks", "workers"), [(True, 4), (False, 1)])
def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch, forks: bool, workers: int) -> None:
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.cores", lambda: 4)
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.forking", lambda: forks)
    assert choose_jobs(None, cells=100, device=CPU) > 1
    assert choose_jobs(None, cells=6, device=CPU) == workers  # a short plan: only forks start fast enough
    assert choose_jobs(None, cells=100, device=torch.device("cuda")) == 1
    assert choose_jobs(3, cells=2, device=CPU) == 2


@pytest.mark.parametrize(("jobs", "cards", "processes"), [(None, 1, 1), (6, 1, 1), (1, 4, 1), (6, 4, 4), (None, 9, 5)])
def test_each_gpu_gets_one_process(
    monkeypatch: pytest.MonkeyPatch, jobs: int | None, cards: int, processes: int
) -> None:
    """CUDA gives processes turns: with six on one card, a training took 117 s instead of 15.5 s."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    assert choose_jobs(jobs, cells=5, device=torch.device("cuda")) == processes


def test_memory_limits_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.cores", lambda: 4)
    assert choose_jobs(None, 100, CPU, 4 * MEMORY) == 4 and choose_jobs(None, 100, CPU, 2 * MEMORY + 1) == 2
    assert choose_jobs(None, 100, CPU, 5) == 1 and choose_jobs(3, 100, CPU, 5) == 3
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.available", lambda: 3 * MEMORY)
    assert choose_jobs(None, 100, CPU) == 3


@pytest.mark.parametrize(("memory", "share"), [(None, 3 * 10**9), (4 * 10**9, 2 * 10**9)])
def test_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch, memory: int | None, share: int) -> None:
    """Twin: were each told of all of it, they would take it twice."""
    told: list[Job] = []

    def refuse(setup: Setup) -> None:
        told.append(setup.job)
        raise MarginbenchError("enough")

    monkeypatch.setattr("marginbench.benchmarks.runs.workers.Worker", refuse)
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.available", lambda: 6 * 10**9)
    job = Job(RunOptions(), load_suite("digits"), Path("runs"), Path("networks"), memory)
    with pytest.raises(MarginbenchError, match="enough"):
        next(run_in_workers([], job, small_data(), 2))
    assert [job.memory for job in told] == [share]


def test_a_run_plans_with_the_memory_of_its_job(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def look(*_: object) -> None:
        seen.append([*budget._limits])
        raise RuntimeError("enough")

    monkeypatch.setattr("marginbench.benchmarks.runs.train.train", look)
    for memory in (None, "4GB"):
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / str(memory), memory=memory)
    assert seen == [[], [4 * 10**9]] and budget._limits == []


def test_workers_keep_to_their_own_cores() -> None:
    assert [share_of([0, 1, 2, 3, 6], place, 2) for place in range(2)] == [[0, 1], [2, 3]]
    assert [share_of([4, 7], place, 2) for place in range(2)] == [[4], [7]]
    assert [share_of([4, 7], place, 3) for place in range(3)] == [[4], [7], [4]]


def test_the_time_left_is_known_from_earlier_records() -> None:
    def record(method: str, seconds: float) -> Record:
        cost = {"seconds": seconds, "evaluation_seconds": 1.0}
        return a_record(method, cost=cost)

    cells = [Cell(Row(create(spec)), 1, {}, "suite") for spec in ("ce", "mma", "roll")]
    assert Eta(cells, 2).seconds() is None
    eta = Eta(cells, 2, [record("mma", 99.0)])
    eta.finished(record("ce", 9.0))
    assert eta.seconds() == pytest.approx((100 + (100 + 10) / 2) / 2)  # roll: like the mean
