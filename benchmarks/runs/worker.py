"""A process that does runs for this one, which can ask where it stands and kill it."""

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch

from marginbench.benchmarks.data.dataset import data_folder
from marginbench.benchmarks.machine.deadline import now, patience
from marginbench.benchmarks.machine.device import CORES
from marginbench.benchmarks.runs.forks import deaf, end_with_parent, workers_context
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.workplace import Order, get_ready, order
from marginbench.methods.errors import MarginbenchError, one_line

STARTING = 600.0  # seconds to import, and to load data and kernels
LEAVING = 20.0  # seconds beyond the end of a call in which a worker may stop by itself
ANSWERING = 2.0  # seconds to say where it stands
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class Message(NamedTuple):
    """What a worker says."""

    kind: Literal["ready", "begin", "at", "record", "error"]
    value: Any = None  # ids of the runs that begin; where one is; its record, None if held elsewhere; what was raised
    run: str = ""  # its id


@dataclass(frozen=True)
class Setup:
    """What a worker must know before its first run."""

    job: Job
    plugins: Sequence[Path]
    device: torch.device
    place: int  # of this worker among all
    workers: int
    threads: int  # of a worker that is alone


@dataclass
class Worker:
    """A worker process, as this process sees it."""

    setup: Setup
    cells: list[Cell] = field(default_factory=list)  # the runs that it has been given and has not ended
    at: list[Cell] = field(default_factory=list)  # those of them that it is at
    where: str = "before it began"
    ready: bool = False  # it has got ready
    busy: bool = False  # with what it has been given
    since: float = field(default_factory=time.monotonic)  # when what it is at, or the process, began

    def __post_init__(self) -> None:
        context = workers_context(self.setup.device.type)
        self.link, theirs = context.Pipe()
        descriptor, stack = tempfile.mkstemp(prefix="marginbench-stack-")
        os.close(descriptor)
        self._stack = Path(stack)
        self._process = context.Process(target=_serve, args=(self.setup, theirs, self._stack))  # type: ignore[attr-defined]
        with deaf(), _hidden_script() if self.setup.workers == 1 else nullcontext():
            self._process.start()
        theirs.close()

    def give(self, cells: Sequence[Cell]) -> None:
        """Let it do runs."""
        self.cells, self.busy = [*cells], True
        self.begins([])
        self.link.send([order(cell) for cell in cells])

    def begins(self, ids: Sequence[str]) -> None:
        """It is at these runs now."""
        self.at = [cell for cell in self.cells if cell.id in ids]
        self.where, self.since = "before it began", time.monotonic()

    def ended(self, run_id: str) -> None:
        """It has done this run."""
        self.cells = [cell for cell in self.cells if cell.id != run_id]
        self.at = [cell for cell in self.at if cell.id != run_id]
        self.since = time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds until it is taken to hang; None: any time is right."""
        seconds, until = self.setup.job.options.deadline, self.setup.job.until
        limits = [] if until is None else [until + LEAVING - now()]
        if not self.ready:
            limits.append(self.since + STARTING - time.monotonic())
        elif not self.busy:
            return None
        elif seconds is not None:  # before its first run it tries how many trainings it does at once
            patient = patience(len(self.at) * seconds) if self.at else STARTING  # at once they make each other slower
            limits.append(self.since + patient - time.monotonic())
        return max(0.0, min(limits)) if limits else None

    def stands(self) -> str:
        """Where it hangs, as in `my_margin.py, line 12, in loss`; an empty text if it does not answer."""
        if not hasattr(signal, "SIGUSR1"):
            return ""
        with suppress(OSError):
            os.kill(self._process.pid, signal.SIGUSR1)
        limit = time.monotonic() + ANSWERING
        while not (text := self._stack.read_text()).endswith("in <module>\n") and time.monotonic() < limit:
            time.sleep(0.05)
        main = text.rstrip().split("\n\n")[-1]  # the first thread stands last
        frames = [(Path(file), line, function) for file, line, function in FRAME.findall(main)]
        own = [frame for frame in frames if frame[0] in self.setup.plugins] or frames
        return f"{own[0][0].name}, line {own[0][1]}, in {own[0][2]}" if own else ""

    def end(self) -> None:
        """Kill it: it may be in code that nothing else stops."""
        self._process.kill()
        self._process.join()
        self.link.close()
        self._stack.unlink(missing_ok=True)


def _serve(setup: Setup, link: Connection, stack: Path) -> None:
    """The life of a worker: get ready, then do what is asked until it is killed."""
    if "fork" in multiprocessing.get_all_start_methods():  # then a lock has no name that it leaves when we are killed
        multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends the workers
    end_with_parent()
    with stack.open("w", encoding="utf-8") as file:
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, file)  # in C: answers whatever the worker is at
        with suppress(EOFError, OSError):  # the parent has gone
            _do_all(setup, link)


def _do_all(setup: Setup, link: Connection) -> None:
    try:
        data_dir = data_folder(setup.job.options.data_dir)
        workplace = get_ready(setup.job, setup.plugins, _settle(setup), data_dir)
    except Exception as error:
        reason = str(error) if isinstance(error, MarginbenchError) else one_line(error)
        _say(link, Message("error", MarginbenchError(f"a worker process cannot get ready: {reason}")))
        return
    _say(link, Message("ready"))
    while True:
        asked: list[Order] = link.recv()
        try:
            for run_id, record in workplace.work_all(
                asked,
                lambda ids: _say(link, Message("begin", ids)),
                lambda run_id, where: _say(link, Message("at", where, run_id)),
            ):
                _say(link, Message("record", record, run_id))
            answer = Message("ready")
        except Exception as error:
            answer = Message("error", error)
        _say(link, answer)


def _say(link: Connection, message: Message) -> None:
    """Tell the parent. Where that was killed, this process ends: a run that raised instead would count as failed."""
    try:
        link.send(message)
    except OSError:
        os._exit(1)


def _settle(setup: Setup) -> torch.device:
    """Keep to the own cores, and to the own GPU."""
    device, workers = setup.device, setup.workers
    if workers == 1:  # in the place of the process that asks: with other threads sums would round otherwise
        torch.set_num_threads(setup.threads)
        return device
    mine = share_of(CORES, setup.place, workers)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, mine)
    torch.set_num_threads(len(mine))
    if device.type == "cuda":
        device = torch.device("cuda", setup.place)
        torch.cuda.set_device(device)
    return device


def share_of(all_cores: list[int], place: int, workers: int) -> list[int]:
    """The cores of worker `place` of `workers`: as many as the others have, or one in turn where there are too few."""
    each = len(all_cores) // workers
    if each == 0:
        return [all_cores[place % len(all_cores)]]
    return all_cores[place * each : (place + 1) * each]


@contextmanager
def _hidden_script() -> Iterator[None]:
    """A block in which new processes do not run the script of this one again, which need not be made for it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
