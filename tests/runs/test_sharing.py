"""Several processes, one output folder: nothing finished is lost, and nothing is done twice but the run in progress."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from processes import MARGINBENCH, Start
from support import Run
from torch import Tensor

from marginbench.benchmarks import load, run_all
from marginbench.benchmarks.machine.files import UnwritableError, write_atomically
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.runs.execute import execute
from marginbench.benchmarks.runs.locks import holders, lock
from marginbench.benchmarks.runs.options import Redo
from marginbench.benchmarks.runs.plan import make_plan, take_shard
from marginbench.benchmarks.runs.plan_files import read_plans
from marginbench.benchmarks.runs.progress import clock
from marginbench.benchmarks.runs.work import prepare
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tables.files import write_tables
from marginbench.benchmarks.training.run import Run as TrainingRun
from marginbench.methods import MarginbenchError, create

DIES_AFTER_ITS_FIRST_CHECKPOINT = f"""
import os, signal
from marginbench.benchmarks.training.checkpoint import Checkpoint
save = Checkpoint.save
Checkpoint.save = lambda *all: (save(*all), os.kill(os.getpid(), signal.SIGKILL))
{MARGINBENCH}
"""
FULL_DISK = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
{MARGINBENCH}
"""


def finished(progress: Sequence[str]) -> list[str]:
    return [line for text in progress for line in text.splitlines() if line.startswith("[")]


def test_two_run_alls_on_one_folder_share_the_work(tiny: Path, tmp_path: Path, start: Start) -> None:
    methods = "ce,arcface(s=8),svm,ce_wd,mixup,input_grad_reg"
    words = ("run-all", "--suite", tiny, "--out", tmp_path, "--jobs", "1", "--methods", methods)
    both = start(MARGINBENCH, *words), start(MARGINBENCH, *words)
    assert [process.wait() for process in both] == [0, 0], [process.err for process in both]
    table = load(tmp_path)
    assert len(table) == 6 and (table["status"] == "done").all()
    # a run that the other one did in the meantime is told again, with its seconds; done twice it would have others
    done = {line.split("]")[1].split("ETA")[0] for line in finished([process.err for process in both])}
    assert len(done) == 6, done
    assert not list((tmp_path / "tiny" / "runs").glob("*.lock")), [process.out for process in both]


@pytest.mark.parametrize("redo", ["everything", "failed"])
def test_what_others_repeated_meanwhile_is_not_repeated_again(
    tiny: Path, tmp_path: Path, redo: Redo, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = None if redo == "everything" else 1e-9
    (before,) = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, deadline=late).records
    assert before.status == ("done" if redo == "everything" else "failed")
    work = prepare(str(tiny), ["ce"], 1, "cpu", tmp_path, redo=redo)
    assert len(work.todo) == 1
    monkeypatch.setattr("marginbench.benchmarks.runs.run_all.seen_elsewhere", lambda _: False)  # in this process
    for module in ("measure", "train"):
        monkeypatch.setattr(f"marginbench.benchmarks.runs.{module}.now", lambda: "2999-01-01T00:00:00+00:00")
    meanwhile = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo=redo, deadline=late)
    assert meanwhile.repeated == 1
    assert execute(work.todo[0], work.job, work.data) == meanwhile.records[0] != before


def test_runs_that_another_process_is_at_are_left_to_it(tiny: Path, tmp_path: Path, run: Run) -> None:
    suite = load_suite(str(tiny))
    cell = make_plan(suite, [create("ce")], [0], suite.load_data().fingerprint)[0]
    runs = tmp_path / "tiny" / "runs"
    runs.mkdir(parents=True)
    with lock(runs, cell.id, "ce", 0) as got:
        assert got
        code, text, _ = run("run-all", "--suite", tiny, "--out", tmp_path, "--jobs", "1")
        assert code == 0 and "1 run done." in text and "Left to other processes: 1 run; see marginbench status" in text
        code, text, _ = run("status", tmp_path)
        assert code == 0 and f"running: ce seed 0 on {os.uname().nodename}, process {os.getpid()}" in text
    code, text, _ = run("run-all", "--suite", tiny, "--out", tmp_path, "--jobs", "1")
    assert code == 0 and "1 run done, 1 had a record already" in text


def test_a_driver_that_is_killed_leaves_a_checkpoint_and_no_lock_that_counts(
    tiny: Path, tmp_path: Path, run: Run, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a training: the next process goes on with that run from its checkpoint."""
    words = ("--suite", tiny, "--out", tmp_path, "--jobs", "1", "--methods", "ce", "--checkpoint-every", "0")
    assert start(DIES_AFTER_ITS_FIRST_CHECKPOINT, "run-all", *words).wait() == -9
    runs, networks = tmp_path / "tiny" / "runs", tmp_path / "networks"
    (checkpoint,) = networks.glob("*.ckpt")
    assert (networks / f"{checkpoint.stem}.lock").exists() and not holders(runs) and not holders(networks)
    code, out, _ = run("status", tmp_path)
    assert code == 0 and "running" not in out.splitlines()[-1]
    steps: list[int] = []
    step = TrainingRun.step

    def watched(training: TrainingRun) -> Tensor:
        steps.append(training.ctx.step)
        return step(training)

    monkeypatch.setattr("marginbench.benchmarks.runs.workers.warm_up", lambda *_: None)
    monkeypatch.setattr(TrainingRun, "step", watched)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    assert outcome.repeated == 1 and steps[0] == 1
    assert not [*networks.glob("*.ckpt"), *networks.glob("*.lock"), *runs.glob("*.lock")]
    assert len(outcome.records) == 1


def test_a_full_disk_is_named_and_loses_nothing_that_was_finished(tiny: Path, tmp_path: Path, start: Start) -> None:
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    (record,) = (tmp_path / "tiny" / "runs").glob("*.json")
    before = record.read_bytes()
    words = ("run-all", "--suite", tiny, "--out", tmp_path, "--jobs", "1", "--methods", "ce,svm")
    full = start(FULL_DISK, *words)
    assert full.wait() == 2, full.err
    assert "cannot be written (File too large)" in full.err.splitlines()[-1] and "Traceback" not in full.err
    assert record.read_bytes() == before
    left = {path.suffix for path in tmp_path.glob("*/**/*") if path.is_file() and "program" not in str(path)}
    assert left == {".json", ".npz", ".safetensors", ".md", ".csv", ".tex"}, "no halves of files"
    assert run_all(str(tiny), ["ce", "svm"], 1, "cpu", tmp_path).repeated == 1


def test_a_record_that_cannot_be_written_leaves_the_network(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MarginbenchError("no space left")

    with monkeypatch.context() as patch, pytest.raises(MarginbenchError, match="no space left"):
        patch.setattr("marginbench.benchmarks.runs.measure.write_record", full)
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, checkpoint_every=0.0)
    runs = tmp_path / "tiny" / "runs"
    assert list((tmp_path / "networks").glob("*.safetensors")) and not list(runs.glob("*.json"))
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.warm_up", lambda *_: None)
    monkeypatch.setattr("marginbench.benchmarks.training.run.Run.step", None)  # no step is left to do
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    assert outcome.repeated == 1 and outcome.records[0].status == "done"


def test_a_checkpoint_that_cannot_be_written_is_no_failure_of_the_method(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(MarginbenchError, match="cannot be written"):
        saved: list[Path] = []

        def write(path: Path, content: bytes) -> None:
            if saved:
                raise UnwritableError(f"{path}: cannot be written (No space left on device)")
            saved.append(path)
            write_atomically(path, content)

        patch.setattr("marginbench.benchmarks.training.checkpoint.write_atomically", write)
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, checkpoint_every=0.0)
    assert [path.suffix for path in (tmp_path / "networks").iterdir()] == [".ckpt"], "the one before is kept"
    assert run_all(str(tiny), ["ce"], 1, "cpu", tmp_path).records[0].status == "done"


def test_a_training_that_fails_leaves_no_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail again from there."""
    networks = tmp_path / "networks"

    def fail(*_: object) -> None:
        assert list(networks.glob("*.ckpt"))
        raise ValueError("for a reason of its own")

    monkeypatch.setattr("marginbench.benchmarks.training.loop._finite", fail)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, checkpoint_every=0.0)
    assert (outcome.records[0].error or "").startswith("ValueError: for a reason of its own")
    assert [path.suffix for path in networks.iterdir()] == [".json"]


def test_the_tables_hold_what_another_process_wrote_meanwhile(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record comes between the reading of the records and the writing of the tables."""
    run_all(str(tiny), ["svm"], 1, "cpu", tmp_path / "other")

    def slow(reading: Reading, folder: Path) -> tuple[pd.DataFrame, list[Path]]:
        for path in (tmp_path / "other" / "tiny" / "runs").iterdir():
            shutil.copy(path, folder / "runs")
        return write_tables(reading, folder)

    monkeypatch.setattr("marginbench.benchmarks.tables.files.write_tables", slow)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    assert sorted(outcome.table["method"]) == ["ce", "svm"]
    assert "svm" in (tmp_path / "tiny" / "leaderboard.md").read_text()


def test_shards_are_disjoint_and_complete(tiny: Path, tmp_path: Path) -> None:
    suite = load_suite(str(tiny))
    cells = make_plan(suite, [create(spec) for spec in ("ce", "svm", "mixup")], range(3), "data")
    parts = [take_shard(cells, f"{i}/4") for i in range(1, 5)]
    ids = [cell.id for part in parts for cell in part]
    assert sorted(ids) == sorted(cell.id for cell in cells) and take_shard(cells, None) == cells
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for wrong in ("0/4", "5/4", "1", "1/0", "a/b", "-1/2", ""):
        with pytest.raises(MarginbenchError, match="shard="):
            take_shard(cells, wrong)


def test_two_shards_make_one_leaderboard(tiny: Path, tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        outcome = run_all(str(tiny), ["ce", "svm", "mixup"], 1, "cpu", tmp_path, shard=part)
    assert set(outcome.table["method"]) == {"ce", "svm", "mixup"} and outcome.repeated == 1


def test_failed_runs_are_repeated_on_demand_and_go_on_from_their_checkpoint(tiny: Path, tmp_path: Path) -> None:
    late = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, deadline=1e-9)
    (record,) = late.records
    assert record.status == "failed" and (record.error or "").startswith("deadline: its 1e-09 s were over in epoch 1")
    assert list((tmp_path / "networks").glob("*.ckpt"))
    assert run_all(str(tiny), ["ce"], 1, "cpu", tmp_path).repeated == 0
    again = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="failed", deadline=600.0)
    assert again.repeated == 1 and again.records[0].status == "done"
    assert not list((tmp_path / "networks").glob("*.ckpt"))
    assert run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="failed").repeated == 0


def test_status_and_dry_run_say_what_there_is_to_do(tiny: Path, tmp_path: Path, run: Run) -> None:
    code, text, _ = run("run-all", "--suite", tiny, "--out", tmp_path, "--dry-run")
    assert code == 0 and "2 of 2 runs to do: about" in text and "memory" in text and "| ce " in text
    assert not (tmp_path / "tiny").exists(), "a dry run writes nothing"
    assert run("status", tmp_path)[0] == 2
    assert run("run-all", "--suite", tiny, "--out", tmp_path, "--shard", "1/2", "--jobs", "1")[0] == 0
    run("run-all", "--suite", tiny, "--out", tmp_path, "--deadline", "1e-9", "--jobs", "1")
    code, text, _ = run("status", tmp_path)
    assert code == 0 and "failed: arcface(s=16,m=0.1) seed 0: deadline" in text
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")]
    assert cells[2:6] == ["1", "1", "0", "0"]
    code, text, _ = run("run-all", "--suite", tiny, "--out", tmp_path, "--dry-run", "--retry")
    assert code == 0 and "1 of 2 runs to do" in text
    assert json.loads(next((tmp_path / "tiny" / "plans").iterdir()).read_text())["cells"]
    assert run("status", tmp_path / "nowhere")[0] == 2


def test_a_run_that_is_repeated_counts_once_in_the_status(tiny: Path, tmp_path: Path, run: Run) -> None:
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    with lock(outcome.runs, outcome.records[0].id, "ce", 0):
        _, text, _ = run("status", tmp_path)
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")]
    assert cells[2:6] == ["0", "0", "1", "0"]


@pytest.mark.parametrize("wrong", ["{}", "[]", '{"suite": "x", "cells": {"id": "ce"}}', "half"])
def test_a_file_that_is_no_plan_is_left_out(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "one.json").write_text('{"suite": "x", "cells": {"id": ["ce", 0, "training"]}}')
    (tmp_path / "plans" / "wrong.json").write_text(wrong)
    assert read_plans(tmp_path) == {"id": ("ce", 0, "training")}


def test_times_are_never_negative() -> None:
    assert [clock(seconds) for seconds in (-5, 0.4, 12, 185, 7200)] == ["0 s", "0 s", "12 s", "3:05", "2:00:00"]
