"""How long a run may take, when all of them must have stopped, and what stops one that does not look at the clock."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from marginbench.methods.errors import ParameterError

DURATION = re.compile(r"(?:(\d+(?:\.\d*)?)h)?(?:(\d+(?:\.\d*)?)m)?(?:(\d+(?:\.\d*)?)s?)?")


class DeadlineError(RuntimeError):
    """A run exceeded its time limit."""


class SlotOverError(BaseException):
    """The time of the whole call is up. No `Exception`: the run has not failed, and nothing that guards one sees it."""


def parse_duration(text: str | float) -> float:
    """Seconds: `30s`, `9m`, `2h`, `1h30m`, or a number of seconds.

    Raises:
        ParameterError: of `stop_after`: none of these, or not above 0.
    """
    match = DURATION.fullmatch(str(text).replace(" ", "").lower())
    if match is None or not any(match.groups()) or isinstance(text, bool):
        raise ParameterError("stop_after", text, "must be a time such as 30s, 9m, 2h or 1h30m, or a number of seconds")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not total > 0:
        raise ParameterError("stop_after", text, "must be above 0; leave it out for no limit")
    return total


def now() -> float:
    """Seconds since the epoch: a clock that processes and machines share, on which a slot ends."""
    return time.time()


@dataclass
class Deadline:
    """Seconds that one run may take, counted from now, and when it must stop at the latest; unlimited by default."""

    seconds: float | None = None
    tell: Callable[[str], None] | None = None  # is told where the run is: who stops it from outside says so
    clock: Callable[[], float] = time.monotonic
    spent: float = 0.0  # seconds of the run before now
    until: float | None = None  # on the clock `now`: the end of the slot, which is no failure of the run
    stopped: bool = False  # a check found that the time was up

    def __post_init__(self) -> None:
        self._began = self.clock() - self.spent

    def count(self, clock: Callable[[], float]) -> None:
        """Count the seconds of another clock, which has just begun."""
        self.clock, self._began = clock, clock() - self.spent

    @property
    def over(self) -> bool:
        return self._late or (self.until is not None and now() >= self.until)

    @property
    def _late(self) -> bool:
        return self.seconds is not None and self.clock() - self._began > self.seconds

    @property
    def left(self) -> float | None:
        """Seconds of the slot that are left, a moment at least; None without one."""
        return None if self.until is None else max(1e-3, self.until - now())

    def enter(self, where: str) -> None:
        """Note what begins now, as in "in epoch 3"."""
        if self.tell is not None:
            self.tell(where)

    def check(self, where: str) -> None:
        """Stop the run if its time is up; `where` says how far it got, as in "in epoch 3".

        Raises:
            DeadlineError: its time is up.
            SlotOverError: that of the whole call is.
        """
        if self._late:
            self.stopped = True
            raise DeadlineError(f"its {self.seconds:g} s were over {where}")
        if self.over:
            raise SlotOverError


def patience(seconds: float) -> float:
    """The seconds after which a run of this limit is taken to hang: it looks at the clock between two steps only."""
    return 1.1 * seconds + 30.0


@contextmanager
def alarm(seconds: float | None, error: BaseException) -> Iterator[None]:
    """A block that is interrupted by the error after so many seconds; None: never.

    Python code alone can be interrupted, on the main thread alone, and not on Windows.
    """
    can = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if seconds is None or not can:
        yield
        return

    def ring(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
