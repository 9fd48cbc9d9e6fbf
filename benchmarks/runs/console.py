"""What the library logs, shown on stderr: plain lines, or on a terminal a picture. Imports nothing heavy."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.live import View

LOGGER = "marginbench"


@dataclass(frozen=True)
class Step:
    """Travels with a message about the progress, as `extra={"step": Step(...)}`: what a bar shows in place of it."""

    text: str  # nothing where the bar says enough
    done: int  # runs so far
    total: int
    eta: str
    what: str  # does it, as in "2 workers"
    view: "Callable[[], View] | None" = None  # what else there is to see; asked again and again, from another thread
    last: bool = False  # no further ones follow
    table: "Callable[[int], str] | None" = None  # of the rows so far, for a width in characters; empty if there is none


class Lines(logging.Handler):
    """One line for each message."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stderr  # kept, for it may be redirected while a library is silenced

    def emit(self, record: logging.LogRecord) -> None:
        print(message(record), file=self._stream, flush=True)

    def end(self) -> None:
        """No further message follows."""


@contextmanager
def shown() -> Iterator[None]:
    """A block in which what marginbench logs at level INFO is shown, unless the caller's own logging sees to it."""
    logger = logging.getLogger(LOGGER)
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    handler = _screen() if sys.stderr.isatty() else Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler further up would show the lines a second time
    try:
        yield
    finally:
        handler.end()
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _screen() -> Lines:
    from marginbench.benchmarks.runs.live import Screen

    return Screen()


def message(record: logging.LogRecord) -> str:
    """The text of a message, with its level where that is no good news."""
    return f"{'warning: ' * (record.levelno >= logging.WARNING)}{record.getMessage()}"
