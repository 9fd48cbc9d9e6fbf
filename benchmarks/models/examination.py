"""All that `marginbench doctor` examines, with its progress in the log."""

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

import torch

from marginbench.benchmarks.evaluation.canaries import CANARIES
from marginbench.benchmarks.evaluation.doctor import Result, examine_canaries, examine_layout
from marginbench.benchmarks.evaluation.strength import examine_starts
from marginbench.benchmarks.machine.device import keep_freed_memory, threads_of
from marginbench.benchmarks.models.known_row import examine_row
from marginbench.benchmarks.plugins import load_installed_plugins, load_plugins, loaded_files
from marginbench.benchmarks.runs.console import LOGGER, Step
from marginbench.benchmarks.runs.forks import deaf, end_with_parent, workers_context
from marginbench.benchmarks.runs.workers import choose_jobs
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.words import counted

log = logging.getLogger(__name__)

Part = Callable[[], Iterable[Result]]
Found = Iterator[tuple[int, list[Result]]]  # place among the parts, results


def examine(device: torch.device) -> list[Result]:
    """Everything, part by part; on a CPU several parts at once, if there are cores and memory for them.

    Each part has one thread of a processor: more cost tiny networks time where cores are few.

    Raises:
        MarginbenchError: a process that examines was killed.
    """
    parts: list[Part] = [
        examine_layout,
        partial(examine_row, device),
        partial(examine_starts, device),
        *(partial(examine_canaries, device, [canary]) for canary in CANARIES),
    ]
    jobs = choose_jobs(None, len(parts), device) if device.type == "cpu" else 1
    first = f"{len(parts)} parts to examine, in about {'two minutes' if jobs > 1 else 'four minutes'}"
    log.info("%s", first, extra={"step": Step(first, 0, len(parts), "?", "examined")})
    found: list[list[Result]] = [[] for _ in parts]
    start = time.perf_counter()
    for done, (place, results) in enumerate(_at_once(parts, jobs) if jobs > 1 else _one_by_one(parts), 1):
        found[place] = results
        _tell(done, len(parts), results, time.perf_counter() - start)
    return list(chain.from_iterable(found))


def _one_by_one(parts: Sequence[Part]) -> Found:
    keep_freed_memory()
    with threads_of(1):
        for place, part in enumerate(parts):
            yield place, list(part())


def _at_once(parts: Sequence[Part], jobs: int) -> Found:
    """In processes of their own, in the order in which they end."""
    heard: set[str] = set()
    with ProcessPoolExecutor(jobs, workers_context("cpu"), initializer=_begin, initargs=(loaded_files(),)) as pool:
        try:
            with deaf():
                tasks = {pool.submit(_examine, part): place for place, part in enumerate(parts)}
            for task in as_completed(tasks):
                results, said = task.result()
                for record in said:
                    if record.msg not in heard:  # each process warns of it for the first time
                        heard.add(record.msg)
                        log.handle(record)
                yield tasks[task], results
        except BrokenProcessPool:
            raise MarginbenchError("a process that examines was killed, perhaps because memory ran out") from None
        except BaseException:  # interrupted: do not wait for what they are at
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _begin(plugins: Sequence[Path]) -> None:
    end_with_parent()
    keep_freed_memory()
    logging.getLogger(LOGGER).setLevel(logging.INFO)  # as in the process that shows it
    torch.set_num_threads(1)
    load_installed_plugins()
    load_plugins(plugins)


def _examine(part: Part) -> tuple[list[Result], list[logging.LogRecord]]:
    """Its results and what was logged meanwhile."""
    said: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logger, handler = logging.getLogger(LOGGER), QueueHandler(said)
    logger.addHandler(handler)
    try:
        results = list(part())
    finally:
        logger.removeHandler(handler)
    return results, [said.get() for _ in range(said.qsize())]


def _tell(done: int, total: int, results: Sequence[Result], seconds: float) -> None:
    failed = sum(result.verdict != "pass" for result in results)
    checks = counted(len(results), "check")
    verdict = f"{failed} of {checks} failed" if failed else f"{checks} passed"
    text = f"[{done}/{total}] {results[0].canary}: {verdict}"
    eta = f"{seconds / done * (total - done):.0f} s"
    log.info("%s", text, extra={"step": Step(text, done, total, eta, "examined", last=done == total)})
