"""Where the cells of a plan run: in this process, or in worker processes of one machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from marginbench.benchmarks.data import Dataset
from marginbench.benchmarks.environment import cores, keep_freed_memory
from marginbench.benchmarks.execute import execute
from marginbench.benchmarks.plan import Cell, make_plan
from marginbench.benchmarks.store import Record
from marginbench.benchmarks.suite import Suite
from marginbench.benchmarks.train import warm_up
from marginbench.methods import MarginbenchError, create, load_plugin, spec_of
from marginbench.methods.registry import PLUGIN

MEMORY = 2 * 2**30  # bytes that a worker may come to need on small suites
WORTHWHILE = 4  # cells per worker below which loading the libraries anew takes longer than it saves


def choose_jobs(jobs: int | None, cells: int, device: torch.device) -> int:
    """The number of workers; None: one for each core that pays, and one process where a GPU does the work.

    Raises:
        MarginbenchError: below 1.
    """
    if jobs is None:
        if device.type != "cpu":
            return 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * MEMORY
        return max(1, min(cores(), cells // WORTHWHILE, memory // MEMORY))
    if jobs < 1:
        raise MarginbenchError(f"--jobs {jobs}: must be at least 1")
    return min(jobs, max(cells, 1))


def run_here(cells: Sequence[Cell], suite: Suite, data: Dataset, runs: Path) -> Iterator[Record]:
    """One cell after the other in this process."""
    keep_freed_memory()
    warm_up(suite, data)
    for cell in cells:
        yield execute(cell, suite, data, runs)


def run_in_workers(
    cells: Sequence[Cell], suite: Suite, data: Dataset, runs: Path, jobs: int, data_dir: Path
) -> Iterator[Record]:
    """The records of all cells in the order in which they end, from `jobs` processes that share the cores.

    Workers are told method and repetition by name, load data and plug-ins themselves, and write the records.

    Raises:
        MarginbenchError: a method that other processes cannot see, or a worker that was killed.
    """
    threads = max(1, cores() // jobs)
    setup = (suite, data.train.device, runs, threads, _plugin_files(cells), data_dir)
    spawn = multiprocessing.get_context("spawn")  # forking a process that runs torch's threads hangs
    with ProcessPoolExecutor(jobs, spawn, _start, setup) as pool:
        futures = [pool.submit(_work, spec_of(cell.method), cell.repetition) for cell in cells]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise MarginbenchError(
                "a worker process was killed, for want of memory perhaps: finished runs are kept, and the same"
                f" command goes on with the rest; --jobs {max(1, jobs // 2)} needs less memory"
            ) from None
        finally:  # interrupted: do not wait for the cells in progress
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()


def _plugin_files(cells: Sequence[Cell]) -> list[Path]:
    files = set()
    for cls in {type(cell.method) for cell in cells}:
        if cls.__module__ == "__main__":
            raise MarginbenchError(
                f"method {cls.info.key!r} is defined in this session, where other processes cannot see it: use jobs=1,"
                " or write it to a file and load_plugin that"
            )
        if cls.__module__.startswith(PLUGIN):
            files.add(Path(str(sys.modules[cls.__module__].__file__)))
    return sorted(files)


class _Worker:
    """What one worker process keeps from cell to cell."""

    suite: Suite
    data: Dataset
    runs: Path


def _start(suite: Suite, device: torch.device, runs: Path, threads: int, plugins: list[Path], data_dir: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends the workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(threads)
    for path in plugins:
        load_plugin(path)
    keep_freed_memory()
    _Worker.suite, _Worker.runs = suite, runs
    _Worker.data = suite.load_data(data_dir).to(device)
    warm_up(suite, _Worker.data)


def _follow_parent() -> None:
    """End with the parent, also when that was killed and could not tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(spec: str, repetition: int) -> Record:
    cells = make_plan(_Worker.suite, [create(spec)], [repetition], _Worker.data.fingerprint)
    return execute(cells[0], _Worker.suite, _Worker.data, _Worker.runs)
