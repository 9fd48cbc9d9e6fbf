"""The runs that a call is about, and which of them are left to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.extras import TENSORBOARD
from marginbench.benchmarks.machine.budget import parse_size
from marginbench.benchmarks.machine.deadline import DeadlineError, alarm, now, parse_duration, patience
from marginbench.benchmarks.machine.device import cores, resolve_device
from marginbench.benchmarks.plugins import load_plugins
from marginbench.benchmarks.records.reader import Reading, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import NETWORKS, Training, find_training
from marginbench.benchmarks.runs.choice import choose_methods, split_settings
from marginbench.benchmarks.runs.job import Job, ended, has_network
from marginbench.benchmarks.runs.options import SUITE, RunOptions, spelled_out
from marginbench.benchmarks.runs.order import in_order
from marginbench.benchmarks.runs.plan import Cell, make_plan, take_shard
from marginbench.benchmarks.runs.progress import announce, say
from marginbench.benchmarks.runs.tuned import beside, suite_held, tuned_rows
from marginbench.benchmarks.runs.workers import choose_jobs
from marginbench.benchmarks.suites.derive import derive, evaluated_by
from marginbench.benchmarks.suites.schema import MOST_SEEDS, Suite, load_suite
from marginbench.methods import spec_of
from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


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
    unreadable: Set[str] = frozenset()  # ids of records that cannot be read

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

    @property
    def untrained(self) -> list[Cell]:
        """The runs that are left out as there is no network to evaluate, nor a record."""
        if self.job.options.only != "evaluate":
            return []
        todo = {cell.id for cell in self.todo}
        return [cell for cell in self.cells if cell.id not in todo and cell.id not in self.records]

    def suits(self, record: Record) -> bool:
        """It is of the suite as it is now."""
        return bool(record.identity.suite == self.suite.fingerprint)


@spelled_out(RunOptions)
def prepare(options: RunOptions) -> Work:
    """Find out what `run_all` would do.

    Raises:
        MarginbenchError: wrong input.
    """
    until = None if options.stop_after is None else now() + parse_duration(options.stop_after)
    patient = None if options.deadline is None else patience(options.deadline)
    with alarm(patient, DeadlineError(f"{patient:g} s were over while plug-ins were imported" if patient else "")):
        load_plugins(options.plugin)
        of_suite, of_methods = split_settings(options.set)
        base = load_suite(str(_suite(options)))
        suite = derive(evaluated_by(base, options.evaluation), of_suite)
        methods = choose_methods(options.methods, suite, of_methods)
        tuned = [] if options.tuned is None else tuned_rows(options.tuned, suite, methods)
    seeds = options.seeds or suite.seeds
    if seeds > MOST_SEEDS:
        raise ParameterError("seeds", seeds, f"must be at most {MOST_SEEDS}")
    repetitions = range(seeds)
    take_shard([], options.shard)  # complains before data are loaded
    if options.tensorboard is not None and TENSORBOARD.missing:
        raise ParameterError("tensorboard", str(options.tensorboard), f"needs a package: {TENSORBOARD.advice}")
    device = resolve_device(options.device)
    announce(options, suite, len(methods) + len(tuned), len(repetitions))
    data_dir = data_folder(options.data_dir)
    data = suite.load_data(data_dir).to(device)
    cells = take_shard(make_plan(suite, beside(methods, tuned), repetitions, data.fingerprint), options.shard)
    folder = Path(options.out).expanduser() / suite.name
    events = None if options.tensorboard is None else Path(options.tensorboard).expanduser().absolute()
    told = replace(options, methods=[spec_of(method) for method in methods], data_dir=data_dir, tensorboard=events)
    memory = None if options.memory is None else parse_size(options.memory)
    job = Job(told, suite, folder / "runs", Path(options.out).expanduser() / NETWORKS, memory, until=until)
    reading = read_folders([job.runs], check_arrays=True) if job.runs.is_dir() else Reading({}, {})
    reading.warn()
    records = {record.id: record for record in reading.records.values()}
    work = Work(job, data, device, folder, [], [], records, {path.stem for path in reading.problems})
    return about(work, cells)


def about(work: Work, cells: list[Cell], networks: Path | None = None) -> Work:
    """The work with other runs, whose networks may lie in another folder."""
    job = work.job if networks is None else replace(work.job, networks=networks)
    todo = [cell for cell in cells if _is_left(cell, job, work.records, work.unreadable)]
    return replace(work, job=job, cells=cells, todo=in_order(todo))


def _suite(options: RunOptions) -> str | Path:
    """The suite that is named, or else that of the tuning, or the default."""
    if options.suite is not None:
        return options.suite
    if options.tuned is None:
        return SUITE
    held = suite_held(options.tuned)
    say(options, f"suite {held}: the one that {options.tuned} was tuned for")
    return held


def _is_left(cell: Cell, job: Job, records: Mapping[str, Record], unreadable: Set[str]) -> bool:
    """A record that cannot be read counts as that of a failed run: nothing of it is replaced unasked."""
    if job.options.only == "train":
        return ended(cell.training.id, job) is None
    if job.options.only == "evaluate" and not _has_ended(find_training(job.networks, cell.training.id), job):
        return False
    if cell.id in unreadable:
        return job.options.redo != "nothing"
    return cell.id not in records or job.repeats(records[cell.id])


def _has_ended(training: Training | None, job: Job) -> bool:
    """There is a network to evaluate, or a failure to record."""
    return training is not None and (training.status == "failed" or has_network(job.networks, training))


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


def threads_each(work: Work, workers: int) -> int | None:
    """Threads of torch that each of the workers has on this machine; None: those that this process has."""
    return max(1, cores() // workers) if work.job.options.scheduler is None and workers > 1 else None
