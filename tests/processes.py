"""Processes that a test starts beside its own. It waits for what they do, never for the clock."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType

SAFETY = 1800.0  # seconds until a test that hangs gives up
MARGINBENCH = "from marginbench.benchmarks.cli import main; main()"
LIBRARIES = ["distributed", "marginbench.benchmarks.cli", "marginbench.benchmarks.runs.run_all"]


def from_server() -> ForkServerContext:
    """Processes fork from one that has imported torch, which takes seconds, and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


class Program:
    """Python source that runs as `python -c` would, in a process and a process group of its own.

    Args:
        folder: a new one, for the files that catch its output.
        terminal: path of a terminal that it writes to instead.
    """

    def __init__(self, folder: Path, source: str, *words: str | Path, terminal: str | None = None) -> None:
        folder.mkdir(parents=True)
        self.name = folder.name
        self._out, self._err = folder / "out", folder / "err"
        for file in (self._out, self._err):
            file.touch()
        targets = (terminal, terminal) if terminal else (str(self._out), str(self._err))
        arguments = (source, [*map(str, words)], targets, dict(os.environ))
        self._process: ForkServerProcess = from_server().Process(target=_run, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int:
        """The exit code: minus the signal that killed it."""
        self._process.join(SAFETY)
        assert self._process.exitcode is not None, f"{self.name} hangs"
        return self._process.exitcode

    def kill(self) -> None:
        """This process alone, which cannot tell its children."""
        self._process.kill()
        self.wait()

    def kill_group(self) -> None:
        """It and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()  # perhaps it had no group yet

    def group(self) -> set[int]:
        """It and its children, those that live."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.pid and state not in "ZX":
                    found.add(int(stat.parent.name))
        return found


Start = Callable[..., Program]  # the fixture `start`


def _run(source: str, words: list[str], targets: tuple[str, str], environment: dict[str, str]) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server may have been started for workers, deaf
    for number, target in enumerate(targets, start=1):
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *words]
    sys.modules["__main__"] = main = ModuleType("__main__")  # without a file, which its workers would run too
    exec(source, vars(main))


def wait_for(event: Callable[[], object], *programs: Program) -> None:
    """Return once it has happened. Fails when a program that is to bring it about has ended without."""
    limit = time.monotonic() + SAFETY
    while True:
        ended = [program for program in programs if not program.alive]  # first: its last act may be the event
        if event():
            return
        assert not ended, f"{ended[0].name} ended ({ended[0].wait()}): {ended[0].err or ended[0].out}"
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)
