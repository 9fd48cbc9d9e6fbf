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
from marginbench.benchmarks.machine.deadline import DeadlineError, alarm, now, parse_duration, patience
from marginbench.benchmarks.machine.device import cores, resolve_device
from marginbench.benchmarks.machine.files import ensure_writable
from marginbench.benchmarks.plugins import load_plugins
from marginbench.benchmarks.records.reader import Reading, read_folders, record_paths
from marginbench.benchmarks.records.record import Record, is_inapplicable
from marginbench.benchmarks.records.training import NETWORKS, Training, find_training
from marginbench.benchmarks.runs.choice import choose_methods, split_settings
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.estimates import Estimates
from marginbench.benchmarks.runs.job import Job, ended, has_network
from marginbench.benchmarks.runs.networks import named
from marginbench.benchmarks.runs.note import Note
from marginbench.benchmarks.runs.options import RunOptions, spelled_out
from marginbench.benchmarks.runs.order import in_order
from marginbench.benchmarks.runs.plan import Cell, make_plan, take_shard
from marginbench.benchmarks.runs.plan_files import write_plan
from marginbench.benchmarks.runs.progress import Progress, announce
from marginbench.benchmarks.runs.report_file import ReportFile
from marginbench.benchmarks.runs.rounds import Rounds
from marginbench.benchmarks.runs.slot import Slot, held_elsewhere
from marginbench.benchmarks.runs.tuned import beside, tuned_rows
from marginbench.benchmarks.runs.watch import Watch
from marginbench.benchmarks.runs.workers import Chosen, choose_jobs, run_here, run_in_workers, seen_elsewhere
from marginbench.benchmarks.suites.derive import derive, evaluated_by
from marginbench.benchmarks.suites.schema import MOST_SEEDS, Suite, load_suite
from marginbench.benchmarks.training.load import method_of
from marginbench.benchmarks.training.sink import INSTALL, has_tensorboard
from marginbench.methods import Method, spec_of
from marginbench.methods.errors import ParameterError
from marginbench.methods.spec import read_settings

if TYPE_CHECKING:
    import pandas as pd
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOutcome:
    """What a call of `run_all` did."""

    table: pd.DataFrame
    records: list[Record]  # of this suite as it is now
    rows: list[str]  # of these, the rows that the call asked for
    files: list[Path]  # leaderboard.{md,csv,tex,json} and claims.md; none where networks are only trained
    runs: Path  # folder of the records
    networks: Path  # folder of the trainings
    report: Path | None  # the page that shows them, if one was asked for and could be written
    repeated: int  # runs that were done
    failed: int  # runs asked for whose record is that of a failure, from this call or an earlier one
    resumed: int  # runs that had a record already
    untrained: int  # runs left out because they have no network yet, with `only="evaluate"`
    elsewhere: int  # runs that another process holds
    left: int  # runs that wait for the next call, with `stop_after`


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
        suite = derive(evaluated_by(load_suite(str(options.suite)), options.evaluation), of_suite)
        methods = choose_methods(options.methods, suite, of_methods)
        tuned = [] if options.tuned is None else tuned_rows(options.tuned, suite, methods)
    seeds = options.seeds or suite.seeds
    if seeds > MOST_SEEDS:
        raise ParameterError("seeds", seeds, f"must be at most {MOST_SEEDS}")
    repetitions = range(seeds)
    take_shard([], options.shard)  # complains before data are loaded
    if options.tensorboard is not None and not has_tensorboard():
        raise ParameterError("tensorboard", str(options.tensorboard), f"needs a package: {INSTALL}")
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
    todo = [cell for cell in cells if _is_left(cell, job, records, {path.stem for path in reading.problems})]
    return Work(job, data, device, folder, cells, in_order(todo), records)


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


def evaluate_trained(run: str, options: RunOptions) -> RunOutcome:
    """Evaluate networks that `run_all` has trained, as the options say: with other attacks, say, or another radius.

    Args:
        run: the id of a training, or its first digits; or the name of a row, which means all its seeds.
        options: `suite=""` is the one by whose name the networks were trained; `methods` and `seeds` are those of the
            networks.

    Raises:
        MarginbenchError: no such network in the output folder, or the suite trains in another way.
    """
    found = named(run, Path(options.out).expanduser())
    suite, settings = options.suite, options.set
    if not suite:
        given = read_settings(options.set, "KEY=VALUE")
        suite, settings = found[0].suite, {**found[0].changes, **given}
    methods: list[str | Path | Method | type[Method]] = list({method_of(training): None for training in found})
    seeds = 1 + max(training.repetition for training in found)
    options = replace(options, suite=suite, set=settings, methods=methods, seeds=seeds, only="evaluate")
    ids = {training.id for training in found}
    with shown() if options.progress else nullcontext():
        work = prepare(**vars(options))
        cells = [cell for cell in work.cells if cell.training.id in ids]
        if not cells:
            problem = f"trains in another way than {run} was trained: name its own suite"
            raise ParameterError("suite", str(suite), problem)
        todo = [cell for cell in work.todo if cell.training.id in ids]
        return _run(options, replace(work, cells=cells, todo=todo))


def _run(options: RunOptions, work: Work) -> RunOutcome:
    if work.todo and (advice := install_advice(work.suite.evaluation.certificates)):
        log.warning("nothing will be certified by %s", advice)
    ensure_writable(work.runs)
    ensure_writable(work.job.networks)
    write_plan(work.folder, work.suite, work.cells)
    workers = count_workers(work)
    ended = []
    report = ReportFile(work) if options.report else None
    slot = _slot(work, workers)
    if work.todo:
        watch, rounds = Watch(work), Rounds(work.todo)
        with Progress(work, workers, watch.view) as progress:
            for record in _records(work, workers, watch.note, None if slot is None else slot.bundles()):
                if record is not None:
                    ended.append(record)
                    if slot is not None:
                        slot.finished(record)
                    watch.finished(record)
                    completed = rounds.completed(record)
                    progress.finished(record, watch.table if completed and options.only != "train" else None)
                    if completed and report is not None:
                        report.write(features=[])
    table, files, current = _tables(work)
    written = None if report is None or not current else report.write()
    asked = {cell.id for cell in work.cells}
    rows = dict.fromkeys(record.method for record in current if record.id in asked)
    untrained = len(work.untrained)
    resumed, others = len(work.cells) - len(work.todo) - untrained, len(work.todo) - len(ended)
    elsewhere = others if slot is None else min(others, held_elsewhere(work))
    done = len(ended), _failed(work, current), resumed, untrained, elsewhere, others - elsewhere
    return RunOutcome(table, current, list(rows), files, work.runs, work.job.networks, written, *done)


def _failed(work: Work, current: Iterable[Record]) -> int:
    """How many of the runs asked for have the record of a failure."""
    if work.job.options.only == "train":
        trainings = (find_training(work.job.networks, cell.training.id) for cell in work.cells)
        ended = [training for training in trainings if training is not None and training.status == "failed"]
        return sum(not is_inapplicable(training.error) for training in ended)
    asked = {cell.id for cell in work.cells}
    return sum(record.status == "failed" and not record.inapplicable and record.id in asked for record in current)


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


def _slot(work: Work, workers: int) -> Slot | None:
    """What chooses the runs of a call that is to stop at some time."""
    if work.job.until is None or not work.todo:
        return None
    return Slot(work, Estimates(work, threads_each(work, workers)), work.job.until)


def threads_each(work: Work, workers: int) -> int | None:
    """Threads of torch that each of the workers has on this machine; None: those that this process has."""
    return max(1, cores() // workers) if work.job.options.scheduler is None and workers > 1 else None


def _records(work: Work, workers: int, note: Note, chosen: Chosen | None) -> Iterable[Record | Training | None]:
    """Do the runs, in this process or others: those that are `chosen`, or all."""
    options = work.job.options
    if options.scheduler is None and workers == 1 and not _watched(options, work):
        return run_here(work.todo, work.job, work.data, note, chosen)
    if options.scheduler is None:
        return run_in_workers(work.todo, work.job, work.data, workers, note, chosen)
    from marginbench.benchmarks.runs.cluster import on_cluster

    return on_cluster(work.todo, work.job, options.scheduler, chosen)


def _watched(options: RunOptions, work: Work) -> bool:
    """Whether runs are done in another process, so that one that hangs can be killed."""
    if options.deadline is not None and not seen_elsewhere(work.todo):
        log.warning("a run that hangs is not stopped: other processes cannot see what was defined in this session")
        return False
    return options.deadline is not None


def _written(work: Work, current: Reading) -> tuple[pd.DataFrame, list[Path]]:
    from marginbench.benchmarks.tables.files import write_tables
    from marginbench.benchmarks.tables.frame import ranked_frame

    return write_tables(current, work.folder) if current.records else (ranked_frame([]), [])


def _tables(work: Work) -> tuple[pd.DataFrame, list[Path], list[Record]]:
    while True:  # other processes write records too, and tables: whoever is last has seen all of them
        seen = record_paths([work.runs])
        current = read_folders([work.runs]).where(work.suits)
        table, files = _written(work, current)
        if record_paths([work.runs]) == seen:
            return table, files, list(current.records.values())
