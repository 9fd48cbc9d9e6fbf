"""How long a run may take, and what stops one that does not look at the clock."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class DeadlineError(RuntimeError):
    """A run exceeded its time limit."""


@dataclass
class Deadline:
    """Seconds that one run may take, counted from now; unlimited by default."""

    seconds: float | None = None
    tell: Callable[[str], None] | None = None  # is told where the run is: who stops it from outside says so
    clock: Callable[[], float] = time.monotonic
    spent: float = 0.0  # seconds of the run before now
    stopped: bool = False  # a check found that the time was up

    def __post_init__(self) -> None:
        self._began = self.clock() - self.spent

    def count(self, clock: Callable[[], float]) -> None:
        """Count the seconds of another clock, which has just begun."""
        self.clock, self._began = clock, clock() - self.spent

    @property
    def over(self) -> bool:
        return self.seconds is not None and self.clock() - self._began > self.seconds

    def enter(self, where: str) -> None:
        """Note what begins now, as in "in epoch 3"."""
        if self.tell is not None:
            self.tell(where)

    def check(self, where: str) -> None:
        """Stop the run if its time is up; `where` says how far it got, as in "in epoch 3".

        Raises:
            DeadlineError: the time is up.
        """
        if self.over:
            self.stopped = True
            raise DeadlineError(f"its {self.seconds:g} s were over {where}")


def patience(seconds: float) -> float:
    """The seconds after which a run of this limit is taken to hang: it looks at the clock between two steps only."""
    return 1.1 * seconds + 30.0


@contextmanager
def alarm(seconds: float | None, where: str) -> Iterator[None]:
    """A block that is interrupted after so many seconds; None: never.

    Python code alone can be interrupted, on the main thread alone, and not on Windows.

    Raises:
        DeadlineError: the time is up.
    """
    can = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if seconds is None or not can:
        yield
        return

    def ring(*_: Any) -> None:
        raise DeadlineError(f"{seconds:g} s were over {where}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
