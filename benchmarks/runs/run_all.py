"""Runs what is left of a plan and writes the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.certificates.scan import install_advice
from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.machine.budget import parse_size
from marginbench.benchmarks.machine.deadline import alarm, patience
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import ensure_writable
from marginbench.benchmarks.plugins import load_plugins
from marginbench.benchmarks.records.reader import Reading, read_folders, record_paths
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs.choice import choose_methods, split_settings
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.execute import Job
from marginbench.benchmarks.runs.options import RunOptions, spelled_out
from marginbench.benchmarks.runs.plan import Cell, make_plan, take_shard
from marginbench.benchmarks.runs.plan_files import write_plan
from marginbench.benchmarks.runs.progress import Progress, announce
from marginbench.benchmarks.runs.workers import choose_jobs, run_here, run_in_workers, seen_elsewhere
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import MOST_SEEDS, Suite, load_suite
from marginbench.methods import spec_of
from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOutcome:
    """What a call of `run_all` did."""

    table: pd.DataFrame
    records: list[Record]  # of this suite as it is now
    files: list[Path]  # leaderboard.{md,csv,tex,json} and claims.md
    runs: Path  # folder of the records
    repeated: int  # runs that were done
    failed: int  # runs asked for whose record is that of a failure, from this call or an earlier one
    resumed: int  # runs that had a record already
    elsewhere: int  # runs that another process holds


@dataclass(frozen=True)
class Work:
    """The runs that a call of `run_all` is about, and which of them are left to do."""

    job: Job
    data: Dataset
    device: torch.device
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
        """Successful records of this version of the suite."""
        return [record for record in self.records.values() if record.status == "done" and self.suits(record)]

    def suits(self, record: Record) -> bool:
        """It is of the suite as it is now."""
        return bool(record.identity.suite == self.suite.fingerprint)


@spelled_out(RunOptions)
def prepare(options: RunOptions) -> Work:
    """Find out what `run_all` would do.

    Raises:
        MarginbenchError: wrong input.
    """
    patient = None if options.deadline is None else patience(options.deadline)
    with alarm(patient, "while plug-ins were imported"):
        load_plugins(options.plugin)
        of_suite, of_methods = split_settings(options.set)
        suite = derive(load_suite(str(options.suite)), of_suite)
        methods = choose_methods(options.methods, suite, of_methods)
    seeds = options.seeds or suite.seeds
    if seeds > MOST_SEEDS:
        raise ParameterError("seeds", seeds, f"must be at most {MOST_SEEDS}")
    repetitions = range(seeds)
    take_shard([], options.shard)  # complains before data are loaded
    device = resolve_device(options.device)
    announce(options, suite, len(methods), len(repetitions))
    data_dir = data_folder(options.data_dir)
    data = suite.load_data(data_dir).to(device)
    cells = take_shard(make_plan(suite, methods, repetitions, data.fingerprint), options.shard)
    folder = Path(options.out).expanduser() / suite.name
    named = replace(options, methods=[spec_of(method) for method in methods], data_dir=data_dir)
    memory = None if options.memory is None else parse_size(options.memory)
    job = Job(named, suite, folder / "runs", memory)
    reading = read_folders([job.runs], check_arrays=True) if job.runs.is_dir() else Reading({}, {})
    reading.warn()
    records = {record.id: record for record in reading.records.values()}
    todo = [cell for cell in cells if _is_left(cell, job, records, {path.stem for path in reading.problems})]
    return Work(job, data, device, folder, cells, todo, records)


def _is_left(cell: Cell, job: Job, records: Mapping[str, Record], unreadable: Set[str]) -> bool:
    """A record that cannot be read counts as that of a failed run: nothing of it is replaced unasked."""
    if cell.id in unreadable:
        return job.options.redo != "nothing"
    return cell.id not in records or job.repeats(records[cell.id])


@spelled_out(RunOptions)
def run_all(options: RunOptions) -> RunOutcome:
    """Train and evaluate every method with every seed, and write the leaderboard.

    Finished runs are not repeated: stop at any time, and make the same call again for the rest. Several processes may
    share the output folder: each run is done by one of them. A repeated run replaces its record once it has ended.

    Methods are spec strings, objects or classes, or plug-in files:
    `run_all(methods=[MyMethod(), "ce", Path("my_margin.py")])`. Those that are defined in a notebook need `jobs=1`. A
    script that asks for more jobs must guard its entry with `if __name__ == "__main__":`.

    Progress is logged to "marginbench" at level INFO. Unless logging is set up to show that, it goes to stderr during
    the call. With `progress=False` it is logged at level DEBUG.

    Raises:
        MarginbenchError: wrong input, found before the first run starts.
    """
    with shown() if options.progress else nullcontext():
        return _run(options, prepare(**vars(options)))


def _run(options: RunOptions, work: Work) -> RunOutcome:
    if work.todo and (advice := install_advice(work.suite.evaluation.certificates)):
        log.warning("nothing will be certified by %s", advice)
    ensure_writable(work.runs)
    write_plan(work.folder, work.suite, work.cells)
    workers = count_workers(work)
    ended = []
    if work.todo:
        with Progress(work, workers) as progress:
            for record in _records(options, work, workers):
                if record is not None:
                    ended.append(record)
                    progress.finished(record)
    table, files, current = _tables(work)
    asked = {cell.id for cell in work.cells}
    failed = sum(record.status == "failed" and record.id in asked for record in current)
    resumed, left = len(work.cells) - len(work.todo), len(work.todo) - len(ended)
    return RunOutcome(table, current, files, work.runs, len(ended), failed, resumed, left)


def count_workers(work: Work) -> int:
    """How many processes share the runs that are left.

    Raises:
        MarginbenchError: no such cluster.
    """
    options = work.job.options
    if options.scheduler is None or not work.todo:
        return choose_jobs(options.jobs, len(work.todo), work.device, work.job.memory)
    from marginbench.benchmarks.runs import cluster

    return max(1, min(cluster.count_workers(options.scheduler), len(work.todo)))  # more may come


def _records(options: RunOptions, work: Work, workers: int) -> Iterable[Record | None]:
    """Do the runs, in this process or others."""
    if options.scheduler is None and workers == 1 and not _watched(options, work):
        return run_here(work.todo, work.job, work.data)
    if options.scheduler is None:
        return run_in_workers(work.todo, work.job, work.data, workers)
    from marginbench.benchmarks.runs.cluster import on_cluster

    return on_cluster(work.todo, work.job, options.scheduler)


def _watched(options: RunOptions, work: Work) -> bool:
    """Whether runs are done in another process, so that one that hangs can be killed."""
    if options.deadline is not None and not seen_elsewhere(work.todo):
        log.warning("a run that hangs is not stopped: other processes cannot see what was defined in this session")
        return False
    return options.deadline is not None


def _tables(work: Work) -> tuple[pd.DataFrame, list[Path], list[Record]]:
    from marginbench.benchmarks.tables.files import write_tables

    while True:  # other processes write records too, and tables: whoever is last has seen all of them
        seen = record_paths([work.runs])
        current = [record for record in read_folders([work.runs]).records.values() if work.suits(record)]
        table, files = write_tables(current, work.folder)
        if record_paths([work.runs]) == seen:
            return table, files, current
