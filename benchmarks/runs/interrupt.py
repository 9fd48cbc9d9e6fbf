"""What Ctrl-C and SIGTERM do to a command: the first ends it in order, the next at once. Imports nothing heavy."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR, SHOW_CURSOR = 2, b"\x1b[?25h"
_arrived: list[int] = []


class InterruptedBySignal(KeyboardInterrupt):
    """Somebody wants the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """A block that the first signal leaves by an exception, so that it can clear up; another one ends the process.

    Python would raise a second `KeyboardInterrupt` in the middle of clearing up, and die of SIGTERM without any.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    _arrived.clear()
    before = {number: signal.signal(number, _first) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _first:  # else the process is ending, and another signal ends it at once
                signal.signal(number, handler)


def _first(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, _again)
    _arrived.append(number)
    raise InterruptedBySignal(number)


def check_interrupted() -> None:
    """Raise again what was lost: Python drops an exception that arises while an object is destroyed.

    Raises:
        InterruptedBySignal: a signal has arrived.
    """
    if _arrived:
        raise InterruptedBySignal(_arrived[0])


def _again(number: int, _: FrameType | None) -> None:
    import multiprocessing
    from multiprocessing import util

    for worker in multiprocessing.active_children():
        worker.kill()
    util._run_finalizers(0)  # type: ignore[attr-defined]  # removes semaphores, which would be reported as leaked
    if os.isatty(STDERR):  # a picture of the progress may be there, which hides the cursor
        os.write(STDERR, SHOW_CURSOR)
    os._exit(128 + number)
