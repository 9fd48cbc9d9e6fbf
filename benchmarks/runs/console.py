"""What the library logs, shown on stderr: plain lines, or a bar with an ETA on a terminal. Imports nothing heavy."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

LOGGER = "marginbench"


@dataclass(frozen=True)
class Step:
    """Travels with a message about the progress, as `extra={"step": Step(...)}`: what a bar shows in place of it."""

    text: str  # nothing where the bar says enough
    done: int  # runs so far
    total: int
    eta: str
    workers: int
    last: bool = False  # no further ones follow


class Lines(logging.Handler):
    """One line for each message."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stderr  # kept, for it may be redirected while a library is silenced

    def emit(self, record: logging.LogRecord) -> None:
        print(_text(record), file=self._stream, flush=True)


class Bar(Lines):
    """The same lines above a bar that follows the runs."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._progress: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        step: Step | None = getattr(record, "step", None)
        if step is not None and self._progress is None:
            self._start(step)
        if self._progress is None:
            super().emit(record)
            return
        if text := _text(record) if step is None else step.text:
            self._progress.console.print(text, highlight=False, markup=False)
        if step is not None:
            self._progress.update(0, completed=step.done, eta=step.eta)
            if step.last:
                self.end()

    def _start(self, step: Step) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TextColumn("ETA {task.fields[eta]}"), console=Console(stderr=True))
        self._progress = self._stack.enter_context(bar)
        bar.add_task(f"{step.workers} worker{'s' * (step.workers > 1)}", total=step.total, eta=step.eta)

    def end(self) -> None:
        """Leave the bar as it is: what is printed from now on goes below it."""
        self._progress = None
        self._stack.close()


@contextmanager
def shown() -> Iterator[None]:
    """A block in which what marginbench logs at level INFO is shown, unless the caller's own logging sees to it."""
    logger = logging.getLogger(LOGGER)
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    handler = Bar() if sys.stderr.isatty() else Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler further up would show the lines a second time
    try:
        yield
    finally:
        if isinstance(handler, Bar):
            handler.end()
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _text(record: logging.LogRecord) -> str:
    return f"{'warning: ' * (record.levelno >= logging.WARNING)}{record.getMessage()}"
