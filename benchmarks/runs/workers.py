"""Where the cells of a plan run: in this process, or in worker processes of one machine."""

import importlib.metadata
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
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
from marginbench.benchmarks.runs.groups import run_in_groups
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.note import Note, unheard
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.worker import STARTING, Message, Setup, Worker
from marginbench.benchmarks.training.loop import warm_up
from marginbench.methods.errors import MarginbenchError, ParameterError
from marginbench.methods.registry import ENTRY_POINTS
from marginbench.methods.userfile import BUILT_IN, USER_MODULE

log = logging.getLogger(__name__)

MEMORY = 2 * 2**30  # bytes that a worker may come to need on small suites
Chosen = Iterator[list[Cell]]  # runs that may be begun at a time, see `Slot`
WORTHWHILE = 4  # cells per worker below which it takes longer to start workers than they save, unless they are forks


def choose_jobs(jobs: int | None, cells: int, device: torch.device, memory: int | None = None) -> int:
    """The number of worker processes: on a CPU as many as are asked for, on GPUs one for each.

    Args:
        jobs: runs at once; of a GPU, trainings in a group. None: as many as are worth it. 1: this process alone.
        memory: bytes that they share; default: what is available.
    """
    if device.type == "cuda":  # which gives processes turns: two on one card are slower than one
        return 1 if jobs == 1 else max(1, min(torch.cuda.device_count(), cells))
    if jobs is None:
        together = available() if memory is None else memory
        return max(1, min(cores(), cells // (1 if forking() else WORTHWHILE), together // MEMORY))
    return min(jobs, max(cells, 1))


def run_here(
    cells: Sequence[Cell] | deque[Cell],
    job: Job,
    data: Dataset,
    note: Note = unheard,
    chosen: Chosen | None = None,
) -> Iterator[Record | Training | None]:
    """The cells in this process, one after the other or, on a GPU, in groups.

    Args:
        cells: a deque may be added to between two records, and is emptied.
        chosen: see `run_in_workers`.

    Returns:
        None for those that another process holds, or for which there was no time.
    """
    keep_freed_memory()
    warm_up(job.suite, data)
    on_gpu = data.train.device.type == "cuda"
    if chosen is not None and on_gpu:
        for _, record in run_in_groups(chosen, job, data, note):
            yield record
        return
    if chosen is not None:
        for cell in chain.from_iterable(chosen):
            yield execute(cell, job, data, partial(note, cell.id))
        return
    todo = cells if isinstance(cells, deque) else deque(cells)
    while todo:
        if on_gpu:
            now = [*todo]
            todo.clear()
            for _, record in run_in_groups([now], job, data, note):
                yield record
            continue
        cell = todo.popleft()
        yield execute(cell, job, data, partial(note, cell.id))


def run_in_workers(
    cells: Sequence[Cell] | deque[Cell],
    job: Job,
    data: Dataset,
    jobs: int,
    note: Note = unheard,
    chosen: Chosen | None = None,
) -> Iterator[Record | Training | None]:
    """The records of all cells in the order in which they end, from `jobs` processes that share the cores.

    Workers are told method and repetition by name, load data and plug-ins themselves, and write the records. Each
    keeps to its own cores, to its share of the memory, and to a GPU of its own. One that hangs beyond the deadline is
    killed: its run has failed, and another worker takes its place. If it was at a group of runs, it is not known which
    of them hangs: they are done again by themselves.

    Args:
        cells: a deque may be added to between two records, with further cells of the methods in it, and is emptied.
        chosen: gives out those that are done whenever a worker is free. Default: all in their order.

    Raises:
        ParameterError: a method that other processes cannot see, or a worker was killed.
        MarginbenchError: a worker cannot load what it needs.
    """
    if jobs > 1:
        job = replace(job, memory=(available() if job.memory is None else job.memory) // jobs)
    files, threads = plugin_files(cells), torch.get_num_threads()
    setups = [Setup(job, files, data.train.device, place, jobs, threads) for place in range(jobs)]
    added = cells if isinstance(cells, deque) else deque[Cell]()
    todo = deque(bundles([*cells], jobs, data.train.device) if chosen is None else [])
    added.clear()
    choosing = chosen is not None
    crew: list[Worker] = []
    reported: set[str] = set()
    try:
        crew = [Worker(setup) for setup in setups]
        while todo or added or choosing or any(worker.busy for worker in crew):
            todo.extend([cell] for cell in added)
            added.clear()
            for worker in [*crew]:
                if worker.left == 0.0 and not worker.link.poll():
                    crew.remove(worker)
                    record, setup, rest = _stop(worker, job, data)
                    yield record
                    todo.extendleft([rest] if rest else [])
                    crew += [Worker(setup)] if todo or choosing else []
                elif worker.ready and not worker.busy and (todo or choosing):
                    bundle = todo.popleft() if todo else next(chosen or iter(()), None)
                    if bundle is None:
                        choosing = False
                    else:
                        worker.give(bundle)
            if job.over():
                choosing = False
                todo.clear()
            waiting = [worker for worker in crew if worker.busy or not worker.ready]
            limits = [worker.left for worker in waiting if worker.left is not None]
            heard = wait([worker.link for worker in waiting], min(limits, default=None)) if waiting else []
            for worker in waiting:
                if worker.link in heard:
                    yield from _hear(worker, jobs, note, reported)
    finally:  # interrupted: do not wait for the runs in progress
        for worker in crew:
            worker.end()


def bundles(cells: Sequence[Cell], workers: int, device: torch.device) -> list[list[Cell]]:
    """What workers are given, one after the other: a cell each time, or, where a GPU does them in groups, all of them.

    Each of several GPUs begins at another place of the plan, and leaves out what the others have done or hold.
    """
    if device.type == "cpu":
        return [[cell] for cell in cells]
    starts = [place * len(cells) // workers for place in range(workers)]
    return [[*cells[start:], *cells[:start]] for start in starts if cells]


def _hear(worker: Worker, jobs: int, note: Note, reported: set[str]) -> Iterator[Record | Training | None]:
    """What a worker has to say: a record, if that is it, which none of them has reported before."""
    try:
        message: Message = worker.link.recv()
    except (EOFError, OSError):
        raise ParameterError(
            "jobs",
            jobs,
            "a worker process was killed, perhaps because memory ran out: finished runs are kept; run the same"
            " command again for the rest, with fewer workers or a smaller memory if that is short",
        ) from None
    match message.kind:
        case "error":
            raise message.value
        case "ready":
            worker.ready, worker.busy, worker.cells, worker.at = True, False, [], []
        case "begin":
            worker.begins(message.value)
        case "at":
            worker.where = message.value
            note(message.run, worker.where)
        case "record":
            worker.ended(message.run)
            if message.run not in reported:
                reported |= {message.run} if message.value is not None else set()
                yield message.value


def _stop(worker: Worker, job: Job, data: Dataset) -> tuple[Record | Training | None, Setup, list[Cell]]:
    """End a worker that hangs, and record that its run has failed, if it is known which one.

    Beyond the end of the call there is no such record: what it was at is left for another one.

    Returns:
        that record; how to go on, and with which runs.

    Raises:
        MarginbenchError: it hangs before its first run.
    """
    if job.over():
        worker.end()
        return None, worker.setup, []
    stands = worker.stands()
    worker.end()
    at = f" ({stands})" if stands else ""
    if not worker.ready:
        raise MarginbenchError(f"a worker process cannot get ready: {STARTING:g} s were over{at}")
    seconds = job.options.deadline
    if len(worker.at) != 1:
        log.warning("a group of runs hung%s: each is done by itself now", at)
        options = replace(worker.setup.job.options, jobs=1)
        return None, replace(worker.setup, job=replace(worker.setup.job, options=options)), worker.cells
    why = DeadlineError(f"its {seconds:g} s were over {worker.where}, and it hung{at}")
    rest = [cell for cell in worker.cells if cell.id != worker.at[0].id]
    return give_up(worker.at[0], job, data, why), worker.setup, rest


def seen_elsewhere(cells: Sequence[Cell]) -> bool:
    """Whether another process finds what the cells name: not if it was defined in this session."""
    modules = {type(cell.method).__module__ for cell in cells}
    packages = {entry.module.partition(".")[0] for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    known = all(
        module.startswith((BUILT_IN, USER_MODULE)) or module.partition(".")[0] in packages for module in modules
    )
    return known and not any(registry.added_by("__main__") for registry in REGISTRIES)


def plugin_files(cells: Iterable[Cell]) -> tuple[Path, ...]:
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
