"""All that `marginbench doctor` examines, with its progress in the log."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from marginbench.benchmarks.evaluation.canaries import CANARIES
from marginbench.benchmarks.evaluation.doctor import Result, examine_canaries, examine_layout
from marginbench.benchmarks.evaluation.strength import examine_starts
from marginbench.benchmarks.models.known_row import examine_row
from marginbench.benchmarks.runs.console import Step
from marginbench.methods.words import counted

log = logging.getLogger(__name__)


def examine(device: torch.device) -> Iterator[Result]:
    """Everything, part by part, on one thread of a processor: more cost tiny networks time where cores are few."""
    parts: list[Callable[[], Iterator[Result]]] = [
        examine_layout,
        partial(examine_row, device),
        partial(examine_starts, device),
        *(partial(examine_canaries, device, [canary]) for canary in CANARIES),
    ]
    first = f"{len(parts)} parts to examine, in about a minute"
    log.info("%s", first, extra={"step": Step(first, 0, len(parts), "?", "examined")})
    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _one_by_one(parts, start)
    finally:
        torch.set_num_threads(threads)


def _one_by_one(parts: Sequence[Callable[[], Iterator[Result]]], start: float) -> Iterator[Result]:
    for done, part in enumerate(parts, 1):
        results = list(part())
        failed = sum(result.verdict != "pass" for result in results)
        verdict = (
            f"{failed} of {counted(len(results), 'check')} failed"
            if failed
            else f"{counted(len(results), 'check')} passed"
        )
        seconds = time.perf_counter() - start
        text = f"[{done}/{len(parts)}] {results[0].canary}: {verdict}"
        eta = f"{seconds / done * (len(parts) - done):.0f} s"
        log.info("%s", text, extra={"step": Step(text, done, len(parts), eta, "examined", last=done == len(parts))})
        yield from results
