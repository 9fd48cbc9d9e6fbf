"""Progress: a live bar with ETA on a terminal, one line for each finished run elsewhere."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs.plan import Cell
from marginbench.methods import spec_of


class Report(Protocol):
    """Told of every run that has ended."""

    def finished(self, record: Record, eta: float) -> None: ...


class Eta:
    """Seconds left, from the mean time of each method so far, or of all methods for one not yet seen.

    Args:
        before: records of runs like these, from earlier calls.
    """

    def __init__(self, cells: Sequence[Cell], workers: int, before: Iterable[Record] = ()) -> None:
        self._left = [spec_of(cell.method) for cell in cells]
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self._workers = workers
        for record in before:
            self._times[record.method].append(record.total_seconds)

    def finished(self, record: Record) -> float:
        self._times[record.method].append(record.total_seconds)
        self._left.remove(record.method)
        means = {name: sum(times) / len(times) for name, times in self._times.items()}
        typical = sum(means.values()) / len(means)
        return sum(means.get(name, typical) for name in self._left) / self._workers


class Lines:
    """One line for each run, for logs."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def finished(self, record: Record, eta: float) -> None:
        self._done += 1
        print(f"[{self._done}/{self._total}] {describe(record)}  ETA {clock(eta)}", file=sys.stderr, flush=True)


@contextmanager
def reporting(total: int, workers: int) -> Iterator[Report]:
    """The report that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("ETA {task.fields[eta]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{workers} worker{'s' * (workers > 1)}", total=total, eta="?")

        class Bar:
            def finished(self, record: Record, eta: float) -> None:
                bar.console.print(describe(record), highlight=False)
                bar.update(task, advance=1, eta=clock(eta))

        yield Bar()


def describe(record: Record) -> str:
    """One line about a finished run."""
    head = f"{record.method:<24} seed {record.repetition}"
    if record.status == "failed":
        return f"{head}  FAILED {record.error}"
    accuracy, points = record.metrics["clean_accuracy"] or 0.0, record.metrics["points"] or 0
    seconds = f"{record.cost['seconds']:.1f} + {record.cost['evaluation_seconds']:.1f} s"
    doubts = f"  doubts: {', '.join(record.doubts)}" if record.doubts else ""
    return f"{head}  clean {accuracy:.1%} of {points:.0f}  train + evaluate {seconds}{doubts}"


def clock(seconds: float) -> str:
    """12 s, 3:05 or 2:00:00."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"
