"""Where the cells of a plan run: in this process, or in worker processes of one machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.machine.budget import available
from marginbench.benchmarks.machine.device import CORES, cores, keep_freed_memory
from marginbench.benchmarks.plugins import loaded_files
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs.execute import Job, execute
from marginbench.benchmarks.runs.forks import forking, workers_context
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.workplace import Order, Workplace, get_ready, order
from marginbench.benchmarks.training.loop import warm_up
from marginbench.methods.errors import MarginbenchError, ParameterError, one_line
from marginbench.methods.userfile import USER_MODULE

MEMORY = 2 * 2**30  # bytes that a worker may come to need on small suites
WORTHWHILE = 4  # cells per worker below which it takes longer to start workers than they save, unless they are forks


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


def run_here(cells: Sequence[Cell], job: Job, data: Dataset) -> Iterator[Record | None]:
    """One cell after the other in this process; None for those that another process holds."""
    keep_freed_memory()
    warm_up(job.suite, data)
    for cell in cells:
        yield execute(cell, job, data)


def run_in_workers(cells: Sequence[Cell], job: Job, device: torch.device, jobs: int) -> Iterator[Record | None]:
    """The records of all cells in the order in which they end, from `jobs` processes that share the cores.

    Workers are told method and repetition by name, load data and plug-ins themselves, and write the records. Each
    keeps to its own cores, and to its share of the memory, of a GPU too.

    Raises:
        ParameterError: a method that other processes cannot see, or a worker was killed.
        MarginbenchError: a worker cannot load what it needs.
    """
    context = workers_context(device.type)
    job = replace(job, memory=(available() if job.memory is None else job.memory) // jobs)
    setup = (job, plugin_files(cells), device, jobs, context.Value("i", 0))
    with ProcessPoolExecutor(jobs, context, _start, setup) as pool:
        futures = [pool.submit(_work, order(cell)) for cell in cells]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ParameterError(
                "jobs",
                jobs,
                "a worker process was killed, perhaps because memory ran out: finished runs are kept; run the same"
                " command again for the rest, with fewer workers or a smaller memory if that is short",
            ) from None
        finally:  # interrupted: do not wait for the runs in progress
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()


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


_workplaces: list[Workplace | Exception] = []  # of this process: one, once it has started, or why it could not


def _start(job: Job, plugins: Sequence[Path], device: torch.device, jobs: int, started: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends the workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    with started.get_lock():
        place = started.value
        started.value += 1
    data_dir = data_folder(job.options.data_dir)
    try:
        _workplaces.append(get_ready(job, plugins, _settle(place, jobs, device), data_dir))
    except Exception as error:  # raised here, it would end the pool without a word of it
        _workplaces.append(error)


def _work(order: Order) -> Record | None:
    (place,) = _workplaces
    if isinstance(place, Exception):
        reason = str(place) if isinstance(place, MarginbenchError) else one_line(place)
        raise MarginbenchError(f"a worker process cannot get ready: {reason}") from place
    return place.work(order)


def _settle(place: int, jobs: int, device: torch.device) -> torch.device:
    """Keep to the own cores, and to one GPU of those there are, or a share of its memory."""
    mine = share_of(CORES, place, jobs)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, mine)
    torch.set_num_threads(len(mine))
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        device = torch.device("cuda", place % gpus)
        torch.cuda.set_device(device)
        sharing = -(-jobs // gpus)
        if sharing > 1:  # each process also holds half a gigabyte that does not count
            torch.cuda.set_per_process_memory_fraction(0.9 / sharing, device)
    return device


def share_of(all_cores: list[int], place: int, jobs: int) -> list[int]:
    """The cores of worker `place` of `jobs`: as many as the others have, or one in turn where there are too few."""
    each = len(all_cores) // jobs
    if each == 0:
        return [all_cores[place % len(all_cores)]]
    return all_cores[place * each : (place + 1) * each]


def _follow_parent() -> None:
    """End with the parent, also when that was killed and could not tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
