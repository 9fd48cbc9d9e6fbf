"""A Dask cluster of real processes: two workers, found through a scheduler file, produce one leaderboard together."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import MARGINBENCH, SAFETY, Program, Start, wait_for

from marginbench.benchmarks import load, run_all
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.plugins import forget_plugins, load_plugin
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.runs import cluster
from marginbench.benchmarks.runs.forecast import forecast
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.luggage import pack
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.runs.work import prepare
from marginbench.benchmarks.runs.workplace import Order
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError

METHODS = ["ce", "svm", "mixup", "ce_wd"]
WORKER = "from distributed.cli.dask_worker import main; main()"
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
HANGS = "threading.Event().wait()"


def at_its_second_run(action: str) -> str:
    """A worker that does this in the middle of its second run."""
    return f"""
import os, signal, threading
from marginbench.benchmarks.runs import train as stage
train, runs = stage.train, iter([1, 2])
def broken(*arguments, **options):
    if next(runs) == 2:
        {action}
    return train(*arguments, **options)
stage.train = broken
{WORKER}
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer to answer."""
    monkeypatch.setattr(cluster, "TIMEOUT", SAFETY)


def scheduler(start: Start, tmp_path: Path) -> tuple[Program, Path]:
    path = tmp_path / "scheduler.json"
    source = "from distributed.cli.dask_scheduler import main; main()"
    words = ("--scheduler-file", path, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    process = start(source, *words)
    wait_for(path.is_file, process)
    return process, path


def worker(start: Start, path: Path, *words: str, source: str = WORKER) -> Program:
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1")
    return start(source, "--scheduler-file", path, "--local-directory", path.parent / "dask", *options, *words)


def drive(start: Start, suite: Path, out: Path, scheduler: Path) -> Program:
    """`run-all` on the cluster, in a process of its own."""
    words = ("--suite", suite, "--out", out, "--methods", ",".join(METHODS), "--scheduler", scheduler)
    patient = f"from marginbench.benchmarks.runs import cluster; cluster.TIMEOUT = {SAFETY}; {MARGINBENCH}"
    return start(patient, "run-all", *words)


def test_workers_found_through_a_scheduler_file_make_one_leaderboard(tiny: Path, tmp_path: Path, start: Start) -> None:
    plugin = write_template("my_margin", tmp_path)
    load_plugin(plugin)
    methods = [*METHODS, "my_margin"]
    _, path = scheduler(start, tmp_path)
    workers = [worker(start, path), worker(start, path)]
    outcome = run_all(str(tiny), methods, 1, "cpu", tmp_path / "out", scheduler=str(path))
    assert outcome.repeated == 5 and outcome.elsewhere == 0
    assert set(outcome.table["method"]) == set(methods)
    assert all(process.alive for process in workers)
    again = run_all(str(tiny), methods, 1, "cpu", tmp_path / "out", scheduler=str(path))
    assert again.repeated == 0 and again.resumed == 5


def test_a_worker_does_the_plugin_as_it_is_now(tiny: Path, tmp_path: Path, start: Start) -> None:
    """Edited, put back, and moved to another file: the worker lives through all of it."""
    plugin = write_template("my_margin", tmp_path / "first")
    text, line = plugin.read_text(), "        return Loss"
    edited = text.replace(line, f"        raise ValueError('edited')\n{line}")
    assert edited != text
    _, path = scheduler(start, tmp_path)
    worker(start, path)

    def errors(file: Path, text: str) -> list[str | None]:
        file.write_text(text)
        forget_plugins()  # as in a new session
        load_plugin(file)
        for run in (tmp_path / "out").rglob("*.json"):
            run.unlink()
        outcome = run_all(str(tiny), ["my_margin"], 1, "cpu", tmp_path / "out", scheduler=str(path))
        return [record.error for record in outcome.records]

    assert errors(plugin, text) == [None]
    (error,) = errors(plugin, edited)
    assert error is not None and error.startswith("ValueError: edited")
    assert errors(plugin, text) == [None]
    assert errors(tmp_path / "moved.py", text.replace(line, f"        # moved\n{line}")) == [None]


def test_a_plugin_travels_with_the_files_that_it_imports_and_names(tiny: Path, tmp_path: Path, start: Start) -> None:
    """To the same numbers as here: the helper and the data change the loss."""
    plugin = write_template("mine_m", tmp_path / "plug")
    text, head, line = plugin.read_text(), "import torch\n", "risk + self.weight * hinge"
    assert text.count(head) == text.count(line) == 1
    plugin.write_text(text.replace(head, f"{head}from helper_f import factor\n").replace(line, f"factor() * ({line})"))
    (tmp_path / "plug" / "helper_f.py").write_text(
        "from pathlib import Path\ndef factor():\n"
        "    return float((Path(__file__).parent / '../constants/factor.txt').read_text())\n"
    )
    (tmp_path / "constants").mkdir()
    (tmp_path / "constants" / "factor.txt").write_text("0.25")
    load_plugin(plugin)
    _, path = scheduler(start, tmp_path)
    worker(start, path)
    here, there = (
        run_all(str(tiny), ["mine_m"], 1, "cpu", tmp_path / name, scheduler=to)
        for name, to in (("here", None), ("there", str(path)))
    )
    (mine,), (theirs,) = here.records, there.records
    assert (mine.id, mine.error) == (theirs.id, theirs.error) and mine.error is None
    ours, other = (read_arrays(outcome.runs / f"{mine.id}.json") for outcome in (here, there))
    assert ours.keys() == other.keys()
    assert all(np.array_equal(ours[name], other[name], equal_nan=True) for name in ours)


def test_a_worker_gets_ready_once_for_all_runs_of_a_plan(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As worker processes of one machine do: it keeps freed memory, which takes a third off small evaluations."""
    calls: list[str] = []
    for name in ("keep_freed_memory", "warm_up"):
        monkeypatch.setattr(f"marginbench.benchmarks.runs.workplace.{name}", lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(cluster, "_ready", {})
    job = Job(RunOptions(device="cpu", data_dir=tmp_path), load_suite(str(tiny)), tmp_path, tmp_path)
    for repetition in range(2):
        parcel = cluster._Parcel(Order("id", "ce", repetition), pickle.dumps(job), (), "token", None)
        ready = cluster._workplace(pickle.loads(pickle.dumps(parcel)))
    assert calls == ["keep_freed_memory", "warm_up"]

    folder = Path(ready.folder.name)
    assert ready.place.job.runs == folder and not ready.shared, "a folder of the same path on another disk"
    (tmp_path / "token").touch()
    other = cluster._workplace(parcel._replace(plugins=(pack(write_template("a", tmp_path)),)))
    assert other.place.job.runs == tmp_path and other.shared
    assert not folder.exists() and Path(other.folder.name).exists()
    other.folder.cleanup()


def test_a_killed_worker_costs_the_run_in_progress_and_no_other(tiny: Path, tmp_path: Path, start: Start) -> None:
    _, path = scheduler(start, tmp_path)
    victim = worker(start, path, source=at_its_second_run(DIES))
    driver = drive(start, tiny, tmp_path / "out", path)
    assert victim.wait() == -9
    runs = tmp_path / "out" / "tiny" / "runs"
    before = {record: record.stat().st_mtime_ns for record in runs.glob("*.json")}
    assert len(before) == len(list(runs.glob("*.lock"))) == 1
    worker(start, path)
    assert driver.wait() == 0, driver.err
    assert "4 runs done." in driver.out and (load(tmp_path / "out")["status"] == "done").all()
    assert all(record.stat().st_mtime_ns == stamp for record, stamp in before.items()), "finished runs stay"
    assert len(list(runs.glob("*.json"))) == 4 and not list(runs.glob("*.lock"))


def test_a_scheduler_that_goes_away_is_named_and_nothing_finished_is_lost(
    tiny: Path, tmp_path: Path, start: Start
) -> None:
    process, path = scheduler(start, tmp_path)
    hand = worker(start, path, source=at_its_second_run(HANGS))
    driver = drive(start, tiny, tmp_path / "out", path)
    runs = tmp_path / "out" / "tiny" / "runs"
    wait_for(lambda: list(runs.glob("*.json")) and list(runs.glob("*.lock")), hand, driver)
    process.kill()
    assert driver.wait() == 2, driver.err
    assert "went away: finished runs are kept in" in driver.err and "Traceback" not in driver.err
    hand.kill()  # else it is still at a run, which this process then leaves to it
    outcome = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "out")
    assert len(outcome.records) == 4 and outcome.resumed == 1


def test_workers_that_do_not_see_the_folder_send_their_records(
    tiny: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver writes them. Here the folder is hidden from workers by its name."""
    parcels: list[cluster._Parcel] = []

    class Elsewhere(cluster._Parcel):
        def __reduce__(self) -> tuple[object, ...]:
            job = replace(pickle.loads(self.job), runs=Path("/nowhere/runs"))
            hidden = self._replace(job=pickle.dumps(job))
            parcels.append(self)
            return cluster._Parcel, tuple(hidden)

    monkeypatch.setattr(cluster, "_Parcel", Elsewhere)
    _, path = scheduler(start, tmp_path)
    worker(start, path)
    late = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", deadline=1e-9)
    assert late.failed == 1
    capsys.readouterr()
    how: dict[str, Any] = {"redo": "failed", "scheduler": str(path), "deadline": 900.0}
    outcome = run_all(str(tiny), ["ce", "svm"], 1, "cpu", tmp_path / "out", **how)
    assert capsys.readouterr().err.count("a run that hangs on a worker of the cluster is not killed") == 1
    assert parcels and outcome.repeated == 2 and outcome.failed == 0
    assert [record.status for record in outcome.records] == ["done", "done"]
    assert sorted(file.suffix for file in outcome.runs.iterdir()) == [".json", ".json", ".npz", ".npz"]
    networks = sorted(file.suffix for file in outcome.networks.iterdir())
    assert networks == [".ckpt", ".json", ".json", ".safetensors", ".safetensors"]
    parcels.clear()
    again = run_all(
        str(tiny), ["ce"], 1, "cpu", tmp_path / "out", only="evaluate", redo="everything", scheduler=str(path)
    )
    assert again.repeated == 1 and again.failed == 0, "it is sent the network"


def test_the_forecast_counts_the_workers_of_the_cluster(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "count_workers", lambda scheduler: 2 if scheduler == "there" else 0)
    monkeypatch.setattr("marginbench.benchmarks.runs.estimates.evaluation_seconds", lambda *_: 0.0)
    monkeypatch.setattr("marginbench.benchmarks.runs.estimates.training_seconds", lambda *_: 100.0)
    work = prepare(str(tiny), METHODS, 1, "cpu", tmp_path, scheduler="there", jobs=1)
    assert "4 of 4 runs to do: about 3:20 with 2 workers" in forecast(work)


def test_what_is_wrong_with_a_cluster_is_said(
    tiny: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MarginbenchError, match=r"scheduler='nowhere\.json': no such file; `dask scheduler"):
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", scheduler="nowhere.json")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "TIMEOUT", 1)
        with pytest.raises(MarginbenchError, match=r"scheduler='tcp://127\.0\.0\.1:9': no scheduler answers"):
            run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    _, path = scheduler(start, tmp_path)
    hand = worker(start, path, "--nthreads", "2")
    wait_for(lambda: "Registered to" in hand.err, hand)
    with pytest.raises(MarginbenchError, match="several threads: start workers with `dask worker --nthreads 1`"):
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", scheduler=str(path))


def test_a_cluster_stops_in_time_too(tiny: Path, tmp_path: Path, start: Start) -> None:
    """First the slot is over before the first run; then it holds all of them."""
    _, path = scheduler(start, tmp_path)
    hands = [worker(start, path, "--name", name) for name in ("a", "b")]
    for hand in hands:
        wait_for(lambda hand=hand: "Registered to" in hand.err, hand)  # type: ignore[misc]
    out = tmp_path / "out"
    outcome = run_all(str(tiny), METHODS, 1, "cpu", out, scheduler=str(path), stop_after=0.001)
    assert (outcome.repeated, outcome.left, outcome.elsewhere) == (0, 4, 0)
    outcome = run_all(str(tiny), METHODS, 1, "cpu", out, scheduler=str(path), stop_after=3600)
    assert (outcome.repeated, outcome.left, outcome.failed) == (4, 0, 0)
