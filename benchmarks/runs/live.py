"""The progress of a command on a terminal: messages, and below them a bar, what is at work, and the best rows so far.

Imports nothing heavy before there is something to show.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.runs.console import Lines, Step, message
from marginbench.methods.words import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

REFRESHES = 2  # a second
BEST = 5  # rows that are shown where there is room
NARROW = 60  # characters of a terminal's width below which less is said of each run
NAME = 12  # characters of a row's name that are left where columns of numbers are
GAP = 2  # spaces between columns
ECHO = 2  # characters left free at the end of a line: `^C` must not begin another one, which nothing would erase


@dataclass(frozen=True)
class AtWork:
    """One run in progress."""

    method: str  # spec
    repetition: int
    stage: str  # train or evaluate
    where: str  # as in "epoch 3 of 20"; may be empty
    seconds: str  # since it began, as text
    host: str = ""  # if it is another one


@dataclass(frozen=True)
class View:
    """What there is to see of a command at one moment, besides how much is done."""

    running: Sequence[AtWork] = ()
    title: str = ""  # of the best rows
    header: Sequence[str] = ()  # of the numbers behind a row's name
    best: Sequence[Sequence[str]] = field(default_factory=list)  # its name and numbers, the best first


class Screen(Lines):
    """Shows messages as `Lines` does, above a picture of the latest `Step` that is drawn again in place."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Any = None
        self._picture: _Picture | None = None

    def emit(self, record: logging.LogRecord) -> None:
        step: Step | None = getattr(record, "step", None)
        if step is not None:
            self._show(step)
        if self._live is None:
            super().emit(record)
            return
        if text := message(record) if step is None else step.text:
            self._print(text)
        if step is not None and step.table is not None and (table := step.table(self._live.console.width)):
            self._print(table)
        if step is not None and step.last:
            self.end()

    def _print(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _show(self, step: Step) -> None:
        if self._picture is not None:
            self._picture.step = step
            return
        from rich.console import Console
        from rich.live import Live

        self._picture = picture = _Picture(step)
        ours = sys.stdout.isatty()  # what methods print goes above the picture; a file gets what is meant for it
        self._live = Live(picture, console=Console(stderr=True), refresh_per_second=REFRESHES, redirect_stdout=ours)
        self._live.start()

    def end(self) -> None:
        """Leave the bar alone on the screen: what is printed from now on goes below it."""
        if self._live is None or self._picture is None:
            return
        self._picture.ended = True
        self._live.stop()  # it draws once more
        self._live = self._picture = None


class _Picture:
    """Drawn by rich, which asks for the lines that fit the terminal as it is then."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.ended = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        step, width = self.step, options.max_width - ECHO
        yield _bar(step, width)
        if self.ended or step.view is None:
            return
        view = step.view()
        workers, best = shares(options.size.height - 2, len(view.running), len(view.best))
        if workers:
            yield _running(view.running, workers, width)
        if best:
            yield _best(view, best, width)


def shares(lines: int, running: int, best: int) -> tuple[int, int]:
    """How many lines runs in progress get, and how many of the best rows are shown, below two lines of header.

    The runs come first, up to half of the lines while there are rows to show too.
    """
    best = min(best, BEST)
    room = max(0, lines)
    workers = min(running, room if not best else max(room // 2, room - best - 2))
    best = max(0, min(best, room - workers - 2))
    return (workers, best) if best else (min(running, room), 0)


def _bar(step: Step, width: int) -> Table:
    from rich.progress_bar import ProgressBar

    grid = _grid(width, [None, 1, None, None] if width >= NARROW else [1, None, None])
    what = [step.what] if width >= NARROW else []
    grid.add_row(*what, ProgressBar(step.total, step.done), f"{step.done}/{step.total}", f"ETA {step.eta}")
    return grid


def _running(running: Sequence[AtWork], lines: int, width: int) -> Table:
    wide = width >= NARROW
    grid = _grid(width, [1, None, 1, None] if wide else [1, None, 1])
    shown = running if len(running) <= lines else running[: lines - 1]
    for run in shown:
        where = f"{run.stage}, {run.where}" if run.where and wide else run.where or run.stage
        cells = [run.method, f"seed {run.repetition}" if wide else str(run.repetition)]
        cells += [f"{where} on {run.host}" if run.host else where, run.seconds]
        grid.add_row(*cells[: len(grid.columns)])
    if hidden := len(running) - len(shown):
        grid.add_row(f"and {hidden} more" if shown else f"{counted(hidden, 'run')} in progress")
    return grid


def _best(view: View, lines: int, width: int) -> Table:
    numbers = len(view.header)
    while numbers > 1 and NAME + sum(len(head) + GAP for head in view.header[:numbers]) > width:
        numbers -= 1
    grid = _grid(width, [1] + [None] * numbers)
    grid.add_row()
    grid.add_row(view.title, *view.header[:numbers], style="bold")
    for name, *cells in view.best[:lines]:
        grid.add_row(name, *cells[:numbers])
    return grid


def _grid(width: int, ratios: Sequence[int | None]) -> Table:
    """Lines of one height. Columns with a ratio share the width that the others leave, and cut what is too long."""
    from rich.table import Table

    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.width = width
    for ratio in ratios:
        grid.add_column(justify="left" if ratio else "right", no_wrap=True, overflow="ellipsis", ratio=ratio)
    return grid
