"""What there is to do, what is done, and how long the rest takes, as messages of a logger."""

import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.records.record import Record, is_inapplicable
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.runs.console import Step
from marginbench.benchmarks.runs.interrupt import check_interrupted
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.suites.schema import Suite, comment, suite_names
from marginbench.methods.words import counted

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.live import View
    from marginbench.benchmarks.runs.work import Work

log = logging.getLogger(__name__)

SILENCE = 30.0  # seconds after which something is said
SHOWN = 4  # runs in progress that are named then


class Eta:
    """Seconds left, from the mean time of each method so far, or of all methods for one not yet seen.

    Args:
        before: records of runs like these, from earlier calls.
    """

    def __init__(self, cells: Sequence[Cell], workers: int, before: Iterable[Record | Training] = ()) -> None:
        self._left = [cell.row.name for cell in cells]
        self._cells = cells
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self._workers = workers
        for record in before:
            self._times[record.method].append(record.total_seconds)

    def finished(self, record: Record | Training) -> None:
        name = record.method if isinstance(record, Record) else self._row_of(record)
        self._times[name].append(record.total_seconds)
        self._left.remove(name)

    def _row_of(self, training: Training) -> str:
        """Two rows may have the same training: one of which a training is left."""
        rows = [cell.row.name for cell in self._cells if cell.training.id == training.id]
        return next(name for name in rows if name in self._left)

    def seconds(self) -> float | None:
        """None as long as no run is known."""
        if not self._times:
            return None
        means = {name: sum(times) / len(times) for name, times in self._times.items()}
        typical = sum(means.values()) / len(means)
        return sum(means.get(name, typical) for name in self._left) / self._workers


class Progress:
    """Reports the runs of a call of `run_all`, from entering the block to leaving it, and what is at work between.

    Args:
        view: what else a terminal shows, see `Step`.
    """

    def __init__(self, work: "Work", workers: int, view: "Callable[[], View] | None" = None) -> None:
        options, self._view = work.job.options, view
        self._folders = [work.job.networks] if options.only == "train" else [work.job.networks, work.runs]
        self._began = self._spoke = time.monotonic()
        self._ended = threading.Event()
        self._level, self._done, self._total = _level(options), 0, len(work.todo)
        self._eta = Eta(work.todo, workers, work.known)
        seconds = self._eta.seconds()
        takes = _suites_own_words(work.suite) if seconds is None else f"about {clock(seconds)}, as in earlier runs"
        self._who = counted(workers, "worker")
        where = f"{self._who}{' of a Dask cluster' if options.scheduler else ''}"
        resumed = len(work.cells) - len(work.todo) - len(work.untrained)
        before = f", {resumed} have a record already" if resumed else ""
        self._first = f"{counted(self._total, 'run')} to do with {where}{before}; {takes}"

    def __enter__(self) -> "Progress":
        self._say(self._first, self._first)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def finished(self, record: Record | Training, table: Callable[[int], str] | None = None) -> None:
        """A run has ended.

        Args:
            table: what a terminal shows with it, see `Step`.
        """
        self._done += 1
        self._eta.finished(record)
        text = describe(record)
        check_interrupted()
        self._say(f"[{self._done}/{self._total}] {text}  ETA {self._clock()}", text, table=table)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        text = f"{self._done} of {counted(self._total, 'run')} done"
        self._say(text, text, last=True)

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._spoke + SILENCE - time.monotonic())):
            if time.monotonic() - self._spoke >= SILENCE:
                self._say(self.sign_of_life(), "")

    def sign_of_life(self) -> str:
        """How long it has been, and which runs are in progress."""
        held = [who for folder in self._folders for who in holders(folder).values()]  # a training holds both, or one
        running = sorted({(who.method, who.repetition): who for who in held}.values(), key=lambda who: who.since)
        names = [f"{who.method} seed {who.repetition} for {clock(who.touched - who.since)}" for who in running]
        if len(names) > SHOWN:
            names[SHOWN:] = [f"{len(names) - SHOWN} more"]
        at_work = f"in progress: {', '.join(names)}" if names else "no run in progress is seen from here"
        return f"[{self._done}/{self._total}] after {clock(time.monotonic() - self._began)}: {at_work}"

    def _say(self, line: str, text: str, last: bool = False, table: Callable[[int], str] | None = None) -> None:
        self._spoke = time.monotonic()
        step = Step(text, self._done, self._total, self._clock(), self._who, self._view, last, table)
        log.log(self._level, "%s", line, extra={"step": step})

    def _clock(self) -> str:
        seconds = self._eta.seconds()
        return "?" if seconds is None else clock(seconds)


@contextmanager
def alive(who: str) -> Iterator[Deadline]:
    """A block in which a line says now and then for how long it has been, and at what: the deadline is told."""
    ended, began, at = threading.Event(), time.monotonic(), "in preparation"

    def note(where: str) -> None:
        nonlocal at
        at = where

    def watch() -> None:
        while not ended.wait(SILENCE):
            log.info("%s after %s: %s", who, clock(time.monotonic() - began), at)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield Deadline(tell=note)
    finally:
        ended.set()
        thread.join()


def announce(options: RunOptions, suite: Suite, methods: int, seeds: int) -> None:
    """Say what a call is about, before anything takes long."""
    runs = f"{counted(methods, 'method')} x {counted(seeds, 'seed')} = {counted(methods * seeds, 'run')}"
    share = f", of which this is the share {options.shard}" if options.shard else ""
    say(options, f"suite {suite.name}: {runs}{share}")


def say(options: RunOptions, text: str) -> None:
    """A line on what a call is about; see `progress` of the options."""
    log.log(_level(options), "%s", text)


def describe(record: Record | Training) -> str:
    """One line about a finished run."""
    head = f"{record.method:<20} seed {record.repetition}"
    if record.status == "failed":
        return f"{head}  {'' if is_inapplicable(record.error) else 'FAILED '}{record.error}"
    if isinstance(record, Training):
        unseen = f"{record.curve[-1].validation_accuracy:.1%}" if record.curve else "?"
        return f"{head}  validation {unseen}  train {record.total_seconds:.1f} s  {size(record.size)}"
    accuracy, points = record.metrics["clean_accuracy"] or 0.0, record.metrics["points"] or 0
    seconds = f"{record.cost['seconds']:.1f} + {record.cost['evaluation_seconds']:.1f} s"
    doubts = f"  doubts: {', '.join(record.doubts)}" if record.doubts else ""
    return f"{head}  clean {accuracy:.1%} of {points:.0f}  train + evaluate {seconds}{doubts}"


def size(count: int) -> str:
    """Bytes as 12 kB, 3.4 MB or 1.2 GB."""
    number, *units = float(count), "B", "kB", "MB", "GB"
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}"


def clock(seconds: float) -> str:
    """12 s, 3:05 or 2:00:00; what is negative, because clocks differ, is 0 s."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def _level(options: RunOptions) -> int:
    return logging.INFO if options.progress else logging.DEBUG


def _suites_own_words(suite: Suite) -> str:
    """How long all runs of a built-in suite take, as its file says: not these ones, and not on this machine."""
    text = comment(suite.name).replace("\n", " ") if suite.name in suite_names() else ""
    found = re.search(r"[^.]*\b(minutes?|hours?)\b[^.]*\.?", text, re.IGNORECASE)
    if found is None:
        return "no estimate before the first run has ended"
    words = found[0].strip().rstrip(".")
    runs = counted(len(suite.rows) * suite.seeds, "run")
    return f"the suite's {runs}: {words[0].lower()}{words[1:]}; of these, on this machine, the ETA after the first run"
