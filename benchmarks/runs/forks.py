"""How worker processes come to be. Imports nothing heavy: the earlier it is asked, the more is loaded meanwhile."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext

LOADED = ["marginbench.benchmarks.runs.workers", "torch._dynamo"]
"""Modules that a fork server imports once for all workers. The first optimiser of a process imports the second."""


def forking() -> bool:
    """Whether workers can be forks of a server. Only Linux promises that what the imports have begun survives that."""
    return sys.platform == "linux"


def workers_context(device: str) -> BaseContext:
    """The way to start workers. Never a fork of this process, whose threads would be missing in it.

    Args:
        device: of the runs. Workers that share a GPU import torch themselves: importing it may open the driver.
    """
    if not forking() or device != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def load_early() -> None:
    """Let a fork server import what workers need, while this process finds out what there is to do."""
    if forking() and len(os.sched_getaffinity(0)) > 1:
        workers_context("cpu")
        with deaf():
            multiprocessing.forkserver.ensure_running()


@contextmanager
def deaf() -> Iterator[None]:
    """A block that starts processes which never hear Ctrl-C, not even while they load: the parent ends them.

    The terminal sends it to all of them, and each would die with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it lets the signal through again, wherever it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this process end when its parent has ended, also when that was killed and could not tell."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
