"""Runs what is left of a plan and writes the tables."""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from marginbench.benchmarks.certificates.listed import missing
from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import ensure_writable
from marginbench.benchmarks.records.reader import Reading, read_folders, record_paths
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs.cluster import on_cluster
from marginbench.benchmarks.runs.execute import Job, Redo
from marginbench.benchmarks.runs.plan import Cell, choose_methods, make_plan, shard, write_plan
from marginbench.benchmarks.runs.progress import Eta, reporting
from marginbench.benchmarks.runs.workers import choose_jobs, run_here, run_in_workers
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.tables.files import write_tables
from marginbench.methods import MarginbenchError


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_all` did."""

    table: pd.DataFrame
    records: list[Record]  # of this suite as it is now
    files: list[Path]  # leaderboard.{md,csv,tex,json} and claims.md
    runs: Path  # folder of the records
    repeated: int  # runs that were done
    resumed: int  # runs that had a record already
    elsewhere: int  # runs that another process is at


@dataclass(frozen=True)
class Prepared:
    """A plan, and what is left of it."""

    job: Job
    data: Dataset
    device: torch.device
    data_dir: Path
    folder: Path  # of the suite
    cells: list[Cell]
    todo: list[Cell]
    records: dict[str, Record]  # by id

    @property
    def suite(self) -> Suite:
        return self.job.suite

    @property
    def runs(self) -> Path:
        return self.job.runs

    @property
    def known(self) -> list[Record]:
        """Runs like those to do that have ended well."""
        return [record for record in self.records.values() if record.status == "done" and self.suits(record)]

    def suits(self, record: Record) -> bool:
        """It is of the suite as it is now."""
        return bool(record.identity.suite == self.suite.fingerprint)


def prepare(
    suite: str = "digits",
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "auto",
    out: str | Path = "results/local",
    settings: Sequence[str] = (),
    redo: Redo = "nothing",
    data_dir: str | Path | None = None,
    part: str | None = None,
) -> Prepared:
    """Find out what `run_all` would do; its arguments.

    Raises:
        MarginbenchError: wrong input.
    """
    chosen_suite = load_suite(suite)
    chosen = choose_methods(methods, chosen_suite, settings)
    target = resolve_device(device)
    if seeds is not None and seeds < 1:
        raise MarginbenchError(f"--seeds {seeds}: must be at least 1")
    shard([], part)  # complains before data are loaded
    sets = data_folder(data_dir)
    data = chosen_suite.load_data(sets).to(target)
    cells = shard(make_plan(chosen_suite, chosen, range(seeds or chosen_suite.seeds), data.fingerprint), part)
    folder = Path(out) / chosen_suite.name
    job = Job(chosen_suite, folder / "runs", redo)
    reading = read_folders([job.runs], check_arrays=True) if job.runs.is_dir() else Reading({}, {})
    reading.warn()
    records = {record.id: record for record in reading.records.values()}
    todo = [cell for cell in cells if _is_left(cell, job, records, {path.stem for path in reading.problems})]
    return Prepared(job, data, target, sets, folder, cells, todo, records)


def _is_left(cell: Cell, job: Job, records: Mapping[str, Record], unreadable: Set[str]) -> bool:
    """A record that cannot be read counts as that of a failed run: nothing of it is replaced unasked."""
    if cell.id in unreadable:
        return job.redo != "nothing"
    return cell.id not in records or job.repeats(records[cell.id])


def run_all(
    suite: str = "digits",
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "auto",
    out: str | Path = "results/local",
    settings: Sequence[str] = (),
    redo: Redo = "nothing",
    jobs: int | None = 1,
    data_dir: str | Path | None = None,
    part: str | None = None,
    scheduler: str | None = None,
    deadline: float | None = None,
    checkpoint_every: float = 300.0,
    eager: bool = False,
) -> Outcome:
    """Train and evaluate every method with every seed, and write the leaderboard. Finished runs are not repeated.

    Args:
        suite: name of a built-in suite, or path of a TOML file.
        methods: spec strings; default: the suite's list, else all registered methods.
        seeds: repetitions; default: the suite's.
        device: auto, cpu or cuda.
        out: folder for records and tables. Several processes may share it: each run is done by one of them.
        settings: METHOD.FIELD=VALUE, applied to every named method.
        redo: which finished runs are repeated: nothing, those that failed, or everything. A record is replaced when
            its new run has ended.
        jobs: processes that share the cores; 1 stays in this one, None chooses. A script that asks for more than one
            must guard its entry with `if __name__ == "__main__":`.
        data_dir: folder of data sets. Default: $MARGINBENCH_DATA, else marginbench in the user's cache folder.
        part: "i/n" does every n-th run from the i-th on.
        scheduler: address or scheduler file of a Dask cluster, whose workers do the runs.
        deadline: seconds for each run, after which it counts as failed.
        checkpoint_every: seconds between two checkpoints of a run, from which it goes on after an interruption.
        eager: on CUDA, do every training step instead of replaying a recorded one.

    Raises:
        MarginbenchError: wrong input, found before the first run starts.
    """
    plan = prepare(suite, methods, seeds, device, out, settings, redo, data_dir, part)
    if plan.todo and (advice := missing(plan.suite.evaluation.certificates)):
        print(f"warning: nothing will be certified by {advice}", file=sys.stderr)
    ensure_writable(plan.runs)
    write_plan(plan.folder, plan.suite, plan.cells)
    job = replace(plan.job, deadline=deadline, checkpoint_every=checkpoint_every, eager=eager)
    workers = choose_jobs(jobs, len(plan.todo), plan.device)
    if scheduler is not None:
        done = on_cluster(plan.todo, job, device, plan.data_dir, scheduler)
    elif workers > 1:
        done = run_in_workers(plan.todo, job, plan.device, workers, plan.data_dir)
    else:
        done = run_here(plan.todo, job, plan.data)
    finished = 0
    if plan.todo:
        with reporting(len(plan.todo), workers) as report:
            eta = Eta(plan.todo, workers, plan.known)
            for record in done:
                if record is not None:
                    finished += 1
                    report.finished(record, eta.finished(record))
    while True:  # other processes write records too, and tables: whoever is last has seen all of them
        seen = record_paths([plan.runs])
        current = [record for record in read_folders([plan.runs]).records.values() if plan.suits(record)]
        table, files = write_tables(current, plan.folder)
        if record_paths([plan.runs]) == seen:
            break
    resumed = len(plan.cells) - len(plan.todo)
    return Outcome(table, current, files, plan.runs, finished, resumed, len(plan.todo) - finished)
