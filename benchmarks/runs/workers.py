"""Where the cells of a plan run: in this process, or in worker processes of one machine."""

import importlib.metadata
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

import torch

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.budget import available
from marginbench.benchmarks.machine.deadline import DeadlineError
from marginbench.benchmarks.machine.device import cores, keep_freed_memory
from marginbench.benchmarks.plugins import loaded_files
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.registry import REGISTRIES
from marginbench.benchmarks.runs.execute import execute, give_up
from marginbench.benchmarks.runs.forks import forking
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.worker import STARTING, Message, Setup, Worker
from marginbench.benchmarks.training.loop import warm_up
from marginbench.methods.errors import MarginbenchError, ParameterError
from marginbench.methods.registry import ENTRY_POINTS
from marginbench.methods.userfile import BUILT_IN, USER_MODULE

MEMORY = 2 * 2**30  # bytes that a worker may come to need on small suites
WORTHWHILE = 4  # cells per worker below which it takes longer to start workers than they save, unless they are forks

Note = Callable[[str, str], None]  # is told the id of a run, and where it is, as in "in epoch 3 of 20"


def unheard(run_id: str, where: str) -> None:
    """A `Note` that tells nobody."""


def choose_jobs(jobs: int | None, cells: int, device: torch.device, memory: int | None = None) -> int:
    """The number of workers; None: as many as are worth starting, which is one where a GPU does the work.

    Args:
        memory: bytes that they share; default: what is available.
    """
    if jobs is None:
        if device.type != "cpu":
            return 1
        together = available() if memory is None else memory
        return max(1, min(cores(), cells // (1 if forking() else WORTHWHILE), together // MEMORY))
    return min(jobs, max(cells, 1))


def run_here(
    cells: Sequence[Cell], job: Job, data: Dataset, note: Note = unheard
) -> Iterator[Record | Training | None]:
    """One cell after the other in this process; None for those that another process holds."""
    keep_freed_memory()
    warm_up(job.suite, data)
    for cell in cells:
        yield execute(cell, job, data, partial(note, cell.id))


def run_in_workers(
    cells: Sequence[Cell], job: Job, data: Dataset, jobs: int, note: Note = unheard
) -> Iterator[Record | Training | None]:
    """The records of all cells in the order in which they end, from `jobs` processes that share the cores.

    Workers are told method and repetition by name, load data and plug-ins themselves, and write the records. Each
    keeps to its own cores, and to its share of the memory, of a GPU too. One that hangs beyond the deadline is killed:
    its run has failed, and another worker takes its place.

    Raises:
        ParameterError: a method that other processes cannot see, or a worker was killed.
        MarginbenchError: a worker cannot load what it needs.
    """
    if jobs > 1:
        job = replace(job, memory=(available() if job.memory is None else job.memory) // jobs)
    files, threads = plugin_files(cells), torch.get_num_threads()
    setups = [Setup(job, files, data.train.device, place, jobs, threads) for place in range(jobs)]
    todo, crew = deque(cells), []
    try:
        crew = [Worker(setup) for setup in setups]
        while todo or any(worker.cell for worker in crew):
            for worker in [*crew]:
                if worker.left == 0.0 and not worker.link.poll():
                    crew.remove(worker)
                    yield from _stop(worker, job, data)
                    crew += [Worker(worker.setup)] if todo else []
                elif worker.ready and worker.cell is None and todo:
                    worker.give(todo.popleft())
            waiting = [worker for worker in crew if worker.cell is not None or not worker.ready]
            limits = [worker.left for worker in waiting if worker.left is not None]
            heard = wait([worker.link for worker in waiting], min(limits, default=None))
            for worker in waiting:
                if worker.link in heard:
                    yield from _hear(worker, jobs, note)
    finally:  # interrupted: do not wait for the runs in progress
        for worker in crew:
            worker.end()


def _hear(worker: Worker, jobs: int, note: Note) -> Iterator[Record | Training | None]:
    try:
        message: Message = worker.link.recv()
    except (EOFError, OSError):
        raise ParameterError(
            "jobs",
            jobs,
            "a worker process was killed, perhaps because memory ran out: finished runs are kept; run the same"
            " command again for the rest, with fewer workers or a smaller memory if that is short",
        ) from None
    if message.kind == "error":
        raise message.value
    if message.kind == "at":
        worker.where = message.value
        if worker.cell is not None:
            note(worker.cell.id, worker.where)
        return
    worker.ready, worker.cell = True, None
    if message.kind == "record":
        yield message.value


def _stop(worker: Worker, job: Job, data: Dataset) -> Iterator[Record | Training | None]:
    """End a worker that hangs, and record that its run has failed.

    Raises:
        MarginbenchError: it hangs before its first run.
    """
    stands = worker.stands()
    worker.end()
    at = f" ({stands})" if stands else ""
    if worker.cell is None:
        raise MarginbenchError(f"a worker process cannot get ready: {STARTING:g} s were over{at}")
    seconds = job.options.deadline
    yield give_up(worker.cell, job, data, DeadlineError(f"its {seconds:g} s were over {worker.where}, and it hung{at}"))


def seen_elsewhere(cells: Sequence[Cell]) -> bool:
    """Whether another process finds what the cells name: not if it was defined in this session."""
    modules = {type(cell.method).__module__ for cell in cells}
    packages = {entry.module.partition(".")[0] for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    known = all(
        module.startswith((BUILT_IN, USER_MODULE)) or module.partition(".")[0] in packages for module in modules
    )
    return known and not any(registry.added_by("__main__") for registry in REGISTRIES)


def plugin_files(cells: Sequence[Cell]) -> tuple[Path, ...]:
    """The files that another process must load to know what the suite and the cells name.

    Raises:
        ParameterError: a method that is defined in a notebook or script.
    """
    files = loaded_files()
    for cls in {type(cell.method) for cell in cells}:
        if cls.__module__ == "__main__":
            raise ParameterError(
                "methods",
                cls.info.key,
                "is defined in this session, where other processes cannot see it: use jobs=1, or write it to a file and"
                " load_plugin that",
            )
        if cls.__module__.startswith(USER_MODULE):
            files.append(Path(str(sys.modules[cls.__module__].__file__)))
    return tuple(dict.fromkeys(files))
