"""What there is to see while the runs of a call are done: who does what, and the best rows so far."""

import logging
import math
import socket
import threading
import time
from collections import Counter, defaultdict
from statistics import fmean
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.runs.live import BEST, AtWork, View
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.progress import clock
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT, WITHOUT_RADII
from marginbench.methods.errors import one_line

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.work import Work

log = logging.getLogger(__name__)
LOOKS = 1.0  # seconds between two looks at the locks: other machines may share the folder


class Watch:
    """The runs of a call as they are at a moment. It is told what this process knows, and reads the locks for the rest.

    Runs of other processes, which share the output folder, are among them.
    """

    def __init__(self, work: "Work") -> None:
        self._work = work
        self._where: dict[str, str] = {}  # by id of the run
        self._best = Best(work)
        self._looked, self._running = -math.inf, list[AtWork]()
        self._mutex = threading.Lock()

    def note(self, run_id: str, where: str) -> None:
        """A run has got somewhere, as in "in epoch 3 of 20"."""
        self._where[run_id] = where

    def finished(self, record: Record | Training) -> None:
        with self._mutex:
            self._best.add(record)
            self._looked = -math.inf

    def view(self) -> View:
        with self._mutex:
            if time.monotonic() - self._looked >= LOOKS:
                self._looked, self._running = time.monotonic(), self.running()
            title, header, rows = self._best.table()
            return View(self._running, title, header, rows)

    def table(self, width: int) -> str:
        """The leaderboard as it is now, for a terminal; an empty text where that fails, for the runs go on."""
        from marginbench.benchmarks.tables.terminal import text_after

        try:
            current = read_folders([self._work.runs]).where(self._work.suits)
            return text_after(list(current.records.values()), self._work.runs, width)
        except Exception as error:  # it shows what is kept elsewhere
            log.warning("no table is shown: %s", one_line(error))
            return ""

    def running(self) -> list[AtWork]:
        """All runs in progress, the oldest first."""
        job, found = self._work.job, list[tuple[float, AtWork]]()
        training = holders(job.networks) if job.networks.is_dir() else {}
        evaluating = holders(job.runs) if job.runs.is_dir() else {}
        of_training = {cell.training.id: cell.id for cell in self._work.cells}
        stages = {run_id: ("evaluate", who) for run_id, who in evaluating.items()}
        stages |= {of_training[key]: ("train", who) for key, who in training.items() if key in of_training}
        for run_id, (stage, who) in stages.items():
            what = f"{stage}, {who.together} at once" if who.together > 1 else stage
            seconds = max(who.touched, time.time()) - who.since
            where = _short(self._where.get(run_id, ""))
            host = "" if who.host == socket.gethostname() else who.host
            found.append((who.since, AtWork(who.method, who.repetition, what, where, clock(seconds), host)))
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]


class Best:
    """The means of the rows over the seeds that are done: no table, for which seeds are missing, but a first look."""

    def __init__(self, work: "Work") -> None:
        self._seeds = Counter(cell.row.name for cell in work.cells)
        left = {cell.id for cell in work.todo}
        before = (work.records[cell.id] for cell in work.cells if cell.id in work.records and cell.id not in left)
        self._records: dict[str, Record | Training] = (
            {} if work.job.options.only == "train" else {record.id: record for record in before}
        )
        self._epsilon = work.suite.evaluation.epsilon
        measured = ACCURACIES if self._epsilon else OF_SENTENCES
        self._columns = VALIDATION if work.job.options.only == "train" else measured

    def add(self, record: Record | Training) -> None:
        self._records[record.id] = record

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """A title, the headers of the numbers, and the rows: name and numbers, the best first."""
        seeds: dict[str, list[Record | Training]] = defaultdict(list)
        for record in self._records.values():
            if record.status == "done":
                seeds[record.method].append(record)
        means = {
            name: [fmean(_value(record, column) for record in records) for column in self._columns]
            for name, records in seeds.items()
        }
        places = zip(levels(-mean for mean, *_ in means.values()), means, strict=True)
        ordered = [name for _, name in sorted(places)]
        rows = [
            [
                name,
                f"{len(seeds[name])}/{self._seeds[name]}",
                *(column.text(mean) for column, mean in zip(self._columns, means[name], strict=True)),
            ]
            for name in ordered[:BEST]
        ]
        header = ["seeds", *(column.heading(self._epsilon) for column in self._columns)]
        return f"best of {len(ordered)} so far", header, rows


def _value(record: Record | Training, column: Column) -> float:
    if isinstance(record, Training):
        return record.curve[-1].validation_accuracy if record.curve else math.nan
    return record.metrics.get(column.name, math.nan)


def _short(where: str) -> str:
    """A place in a run without the words that make it part of a sentence."""
    return where.removeprefix("in ").removeprefix("while ")


def _named(*names: str) -> list[Column]:
    known = {column.name: column for column in columns.measured()}
    return [known[name] for name in names]


NORM = columns.norm_of(DEFAULT_SORT)
ACCURACIES = _named(DEFAULT_SORT, "clean_accuracy", f"certified_accuracy_{NORM}")  # the first one orders the rows
OF_SENTENCES = _named(WITHOUT_RADII)
VALIDATION = _named("validation_accuracy")
