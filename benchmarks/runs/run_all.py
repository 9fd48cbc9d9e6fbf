"""Runs what is left of a plan and writes the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.certificates.scan import install_advice
from marginbench.benchmarks.machine.files import ensure_writable
from marginbench.benchmarks.records.current import OTHER_DATA, marks
from marginbench.benchmarks.records.reader import Reading, read_folders, record_paths
from marginbench.benchmarks.records.record import Record, is_inapplicable
from marginbench.benchmarks.records.training import Training, find_training
from marginbench.benchmarks.runs.choice import split_settings
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.estimates import Estimates
from marginbench.benchmarks.runs.job import ended
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.luggage import pack
from marginbench.benchmarks.runs.networks import named
from marginbench.benchmarks.runs.note import Note
from marginbench.benchmarks.runs.options import RunOptions, spelled_out
from marginbench.benchmarks.runs.plan import make_plan
from marginbench.benchmarks.runs.plan_files import write_plan
from marginbench.benchmarks.runs.progress import Progress
from marginbench.benchmarks.runs.report_file import ReportFile
from marginbench.benchmarks.runs.rounds import Rounds
from marginbench.benchmarks.runs.slot import Slot, held_elsewhere
from marginbench.benchmarks.runs.watch import Watch
from marginbench.benchmarks.runs.work import Work, about, count_workers, prepare, threads_each
from marginbench.benchmarks.runs.workers import Chosen, plugin_files, run_here, run_in_workers, seen_elsewhere
from marginbench.methods import Method
from marginbench.methods.errors import ParameterError
from marginbench.methods.spec import read_settings

if TYPE_CHECKING:
    import pandas as pd

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
        run: the id of a training, or its first digits; or the name of a row, tuned ones included, which means all its
            seeds. Trials of tunings are no networks of a row: they have an id alone.
        options: `suite=None` is the one by whose name the networks were trained; `methods` and `seeds` are those of the
            networks.

    Raises:
        MarginbenchError: no such network in the output folder, or the suite trains in another way.
    """
    found = named(run, Path(options.out).expanduser())
    first, of_methods = found[0], split_settings(options.set)[1]
    if of_methods:
        problem = "is of a method, and a network with another one is another network: `run-all` trains it"
        raise ParameterError("set", "=".join(map(str, next(iter(of_methods.items())))), problem)
    suite, settings = options.suite, options.set
    if suite is None:
        given = read_settings(options.set, "KEY=VALUE")
        own = {key: value for key, value in first.training.changes.items() if key not in first.row.recipe}
        suite, settings = first.training.suite, {**own, **given}
    rows = list({(one.name, one.tuning and one.tuning.id): one.row for one in found}.values())
    seeds = sorted({one.training.repetition for one in found})
    methods: list[str | Path | Method | type[Method]] = list({row.method: None for row in rows})
    options = replace(options, suite=suite, set=settings, methods=methods, seeds=len(seeds), only="evaluate")
    ids = {one.training.id for one in found}
    with shown() if options.progress else nullcontext():
        work = prepare(**vars(options))
        planned = make_plan(work.suite, rows, seeds, work.data.fingerprint)
        cells = [cell for cell in planned if cell.training.id in ids]
        if not cells:
            remedy = (
                "name its own suite" if first.of_row else "it is a trial, which --set data.evaluate=validation asks for"
            )
            problem = f"trains in another way than {run} was trained: {remedy}"
            raise ParameterError("suite", str(suite), problem)
        return _run(options, about(work, cells, first.folder))


def _run(options: RunOptions, work: Work) -> RunOutcome:
    if work.todo and (advice := install_advice(work.suite.evaluation.certificates)):
        log.warning("nothing will be certified by %s", advice)
    if options.scheduler is not None:
        for file in plugin_files(work.todo):
            pack(file)  # complains of what cannot travel, before a cluster is asked
    ensure_writable(work.runs)
    ensure_writable(work.job.networks)
    write_plan(work.folder, work.suite, work.cells)
    workers = count_workers(work)
    done: list[Record | Training] = []
    report = ReportFile(work) if options.report else None
    slot = _slot(work, workers)
    if work.todo:
        watch, rounds = Watch(work), Rounds(work.todo)
        with Progress(work, workers, watch.view) as progress:
            for record in _all_records(work, workers, watch.note, None if slot is None else slot.bundles()):
                if record is not None:
                    done.append(record)
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
    _warn_of_marked(current, asked)
    rows = dict.fromkeys(record.method for record in current if record.id in asked)
    untrained = len(work.untrained)
    resumed, others = len(work.cells) - len(work.todo) - untrained, len(work.todo) - len(done)
    elsewhere = others if slot is None else min(others, held_elsewhere(work))
    counts = len(done), _failed(work, current), resumed, untrained, elsewhere, others - elsewhere
    return RunOutcome(table, current, list(rows), files, work.runs, work.job.networks, written, *counts)


def _warn_of_marked(current: Sequence[Record], asked: Set[str]) -> None:
    """An earlier state of a plug-in or of the data may be back, with its records, which newer ones have overtaken."""
    found = marks(current)
    rows = {record.method: found[record.id] for record in current if record.id in asked and found.get(record.id)}
    for row, mark in rows.items():
        what = "on other data" if mark == OTHER_DATA else "of another version"
        log.warning(
            "%s has newer records, %s, by which the table goes; it calls these runs %s: repeat them with `fresh`",
            row,
            what,
            mark,
        )


def _failed(work: Work, current: Iterable[Record]) -> int:
    """How many of the runs asked for have the record of a failure."""
    if work.job.options.only == "train":
        trainings = (find_training(work.job.networks, cell.training.id) for cell in work.cells)
        failed = [training for training in trainings if training is not None and training.status == "failed"]
        return sum(not is_inapplicable(training.error) for training in failed)
    asked = {cell.id for cell in work.cells}
    return sum(record.status == "failed" and not record.inapplicable and record.id in asked for record in current)


def _slot(work: Work, workers: int) -> Slot | None:
    """What chooses the runs of a call that is to stop at some time."""
    if work.job.until is None or not work.todo:
        return None
    return Slot(work, Estimates(work, threads_each(work, workers)), work.job.until)


def _records(work: Work, workers: int, note: Note, chosen: Chosen | None) -> Iterable[Record | Training | None]:
    """Do the runs, in this process or others: those that are `chosen`, or all."""
    options = work.job.options
    if options.scheduler is None and workers == 1 and not _watched(options, work):
        return run_here(work.todo, work.job, work.data, note, chosen)
    if options.scheduler is None:
        return run_in_workers(work.todo, work.job, work.data, workers, note, chosen)
    from marginbench.benchmarks.runs.cluster import on_cluster

    return on_cluster(work.todo, work.job, options.scheduler, chosen)


def _all_records(work: Work, workers: int, note: Note, chosen: Chosen | None) -> Iterator[Record | Training | None]:
    """Those of `_records`, and of runs that have waited for one beside them that has the same training."""
    done = set()
    for record in _records(work, workers, note, chosen):
        if record is not None:
            done.add(record.id)
        yield record
    if work.job.options.only == "train" or work.job.until is not None:
        return
    done |= {*holders(work.runs)}
    waiting = [cell for cell in work.todo if cell.id not in done and ended(cell.training.id, work.job) is not None]
    if waiting:
        yield from _records(replace(work, todo=waiting), min(workers, len(waiting)), note, None)


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
