"""A few steps of trainings whose result is thrown away: what one takes by itself, and how many at once are worth it."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.device import seconds_on
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.choice import Alone, next_size, pays
from marginbench.benchmarks.training.group import Group
from marginbench.benchmarks.training.recorder import Recorder
from marginbench.benchmarks.training.replay import SETTLED, Replay
from marginbench.benchmarks.training.run import Run
from marginbench.benchmarks.training.together import step_together
from marginbench.methods import Context, Method, spec_of
from marginbench.methods.errors import one_line

log = logging.getLogger(__name__)

STEPS = 10  # that are timed
SHORTEST = 10 * (SETTLED + 1 + STEPS)  # steps of a training for which a trial is worth it
NO_RECORDER = "this device or its optimiser records nothing"
SHORT = "its training is as short as a trial"
DIFFERS = "its steps differ from each other: see Context.stage and Context.schedule"

Clock = Callable[[], float]


def alone(
    method: Method,
    suite: Suite,
    data: Dataset,
    recorder: Callable[[], Recorder] | None = None,
    clock: Clock | None = None,
    compile: bool = False,
) -> Alone:
    """What a training takes by itself, at its beginning.

    Args:
        recorder: see `Run`.
        clock: default: that of the device.
        compile: find out whether compiling it pays, too, and compile it if it does.
    """
    clock = clock or partial(seconds_on, data.train.device)
    with _memory(data.train.device) as taken:
        try:
            plain = _alone(Run(method, suite, data, 0, recorder=recorder), clock, taken)
        except Exception as error:  # what a method raises here it raises in its training too, which then has failed
            return Alone(obstacle=one_line(error))
    if not compile or plain.obstacle:
        return plain
    with _memory(data.train.device) as taken:
        try:
            start = clock()
            run = Run(method, suite, data, 0, recorder=recorder, compiled=True)
            found = _alone(run, clock, taken)
            compiling = clock() - start - (SETTLED + 1 + STEPS) * found.seconds
        except Exception as error:  # second derivatives, or what its compiler does not know
            log.info("%s is not compiled: %s", spec_of(method), one_line(error))
            return plain
    better = not found.obstacle and pays(compiling, plain.seconds, found.seconds, run.ctx.steps)
    return replace(found, compiled=True) if better else plain


def _alone(run: Run, clock: Clock, taken: Callable[[], int]) -> Alone:
    if run.replay is None:
        return Alone(obstacle=run.method.info.eager or NO_RECORDER)
    if run.ctx.steps < SHORTEST:
        return Alone(obstacle=SHORT)
    for _ in range(SETTLED + 1):
        run.step()
    if not run.replay.replayed:
        return Alone(obstacle=run.replay.obstacle or DIFFERS)
    start = clock()
    for _ in range(STEPS):
        run.step()
    return Alone((clock() - start) / STEPS, taken(), _changes(run.replay, run.ctx))


def growth(
    method: Method,
    suite: Suite,
    data: Dataset,
    most: int,
    recorder: Callable[[], Recorder] | None = None,
    clock: Clock | None = None,
) -> dict[int, float]:
    """Seconds of a step of all, by the number of trainings that are together, up to where more gain too little.

    Args:
        most: trainings at once.
        recorder, clock: as for `alone`.
    """
    clock = clock or partial(seconds_on, data.train.device)
    seconds: dict[int, float] = {}
    with _memory(data.train.device):
        _grow(lambda place: Run(method, suite, data, place, recorder=recorder), most, clock, seconds)
    return seconds


def _grow(make: Callable[[int], Run], most: int, clock: Clock, seconds: dict[int, float]) -> None:
    runs: dict[int, Run] = {}
    group: Group | None = None
    while (size := next_size(seconds, most)) is not None:
        try:
            runs |= {place: make(place) for place in range(len(runs), size)}
        except torch.OutOfMemoryError:
            return
        if group is None and (recorder := runs[0].recorder) is not None:
            group = Group(recorder())
        for run in runs.values():
            run.ctx.step = 0
        failed = [step_together(runs, group) for _ in range(SETTLED + 1)]
        start = clock()
        failed += [step_together(runs, group) for _ in range(STEPS)]
        if any(failed):
            return
        seconds[size] = (clock() - start) / STEPS


def _changes(replay: Replay, ctx: Context) -> tuple[int, ...]:
    """Hundredths of the training at which what the step has read of the schedule changes."""
    answers = []
    for hundredth in range(100):
        ctx.step = hundredth * ctx.steps // 100
        answers.append([ctx.unnoticed(stage) for stage in replay.stages])
    return tuple(place for place in range(1, 100) if answers[place] != answers[place - 1])


@contextmanager
def _memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """A block that leaves nothing on the device; gives the most bytes that were taken in it so far."""
    if device.type != "cuda":
        yield lambda: 0
        return
    _clear()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield lambda: torch.cuda.max_memory_reserved(device) - before
    finally:
        _clear()


def _clear() -> None:
    gc.collect()
    torch.cuda.empty_cache()
