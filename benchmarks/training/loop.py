"""Training one network: the benchmark owns network, order of the data, optimiser, schedule and seeds."""

import logging
import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.records.record import CurvePoint
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.blueprint import Blueprint
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.clock import Clock, OwnClock
from marginbench.benchmarks.training.curve import Curve
from marginbench.benchmarks.training.log import Log
from marginbench.benchmarks.training.run import Run
from marginbench.benchmarks.training.sink import Sink
from marginbench.benchmarks.training.untouched import untouched
from marginbench.methods import Batch, Method, Net, spec_of
from marginbench.methods.baselines.ce import CE
from marginbench.methods.hooks import returned

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """How a training is done, which does not change what comes out."""

    checkpoint: Checkpoint = field(default_factory=Checkpoint)  # it goes on from there, and saves from time to time
    deadline: Deadline = field(default_factory=Deadline)  # of training and evaluation together
    eager: bool = False  # see `Run`
    curve_every: int | None = None  # see `Curve`
    sink: Sink | None = None  # is told of each epoch
    clock: Clock | None = None  # counts its seconds; default: all that pass
    compiled: bool = False  # see `Run`


class DivergedError(RuntimeError):
    """A loss or weight became NaN or infinite."""


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode, with what it cost."""

    net: Net
    seconds: float  # wall time of all steps; in a group its share of that, see `Shares`
    steps: int
    forward: float  # images forward per training image seen
    backward: float
    replayed: float | None  # share of the steps that were replayed, CUDA only
    peak_bytes: int | None  # CUDA only; in a group that of all
    together: float  # runs that were stepped together, the mean over the steps: 1 for a run alone
    losses: list[float]  # mean loss of each epoch
    parts: dict[str, list[float | None]]  # the same of its parts, see `Log`
    curve: list[CurvePoint]
    blueprint: Blueprint


def train(
    method: Method,
    suite: Suite,
    data: Dataset,
    repetition: int,
    how: How | None = None,
) -> Trained:
    """Train one network with one method.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        DeadlineError: it took too long; it can continue from the checkpoint.
        HookError: a hook did what it must not.
    """
    how = how or How()
    how.deadline.enter("while the network was built")
    run = Run(method, suite, data, repetition, eager=how.eager, compiled=how.compiled)
    with run.draws, closing(training(run, data, how)) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return cast(Trained, end.value)
            run.step()


def training(run: Run, data: Dataset, how: How) -> Generator[None, None, Trained]:
    """A training from its checkpoint on, which stops wherever `run.step()` is to be called, by whoever goes on with it.

    Both are done in a block of `run.draws`.

    Raises:
        DivergedError, DeadlineError, HookError: as `train`.
    """
    method, checkpoint, deadline, device = run.method, how.checkpoint, how.deadline, run.ctx.device
    curve, clock = Curve(data, how.curve_every), how.clock or OwnClock(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with run.passes as passes:
        means, before = Log(), 0.0
        if (state := checkpoint.load()) is not None:
            before = _resume(run, means, curve, state)
        before -= clock.read()
        deadline.enter(f"in epoch {len(means.losses) + 1} of {run.ctx.epochs}")
        while run.ctx.step < run.ctx.steps:
            yield
            means.add(run.loss, run.parts)
            epoch, position = divmod(run.ctx.step, run.steps_per_epoch)
            if position == 0:
                if not (math.isfinite(means.end_epoch()) and _finite(run.net)):
                    raise DivergedError(f"loss or weights not finite in epoch {epoch} of {run.ctx.epochs}")
                with clock.paused():  # it is no part of the method's cost
                    if curve.due(epoch, run.ctx.epochs):
                        curve.add(epoch, run.net, passes)
                    if how.sink is not None:
                        how.sink.log(_metrics(run, means, curve, epoch), run.ctx.step)
                deadline.enter(f"in epoch {min(epoch + 1, run.ctx.epochs)} of {run.ctx.epochs}")
            if checkpoint.due or deadline.over:
                checkpoint.save(_progress(run, means, curve, before + clock.read()))
                deadline.check(f"in epoch {epoch + 1} of {run.ctx.epochs}")
        seconds = before + clock.read()
        run.finish()
        deadline.enter("while the training was finished")
        with clock.paused(), untouched(method.finish):
            net = method.finish(run.net, one_pass(run.split, run.batch_size), run.ctx)
        net = returned(method.finish, net, Net, "end it with `return net`")
    if run.replay is not None and run.replay.obstacle:
        log.warning("%s: steps were not replayed: %s", spec_of(method), run.replay.obstacle)
    seen = run.ctx.steps * run.batch_size
    return Trained(
        net=net.eval(),
        seconds=seconds,
        steps=run.ctx.steps,
        forward=passes.forward / seen,
        backward=passes.backward / seen,
        replayed=None if run.replay is None else run.replay.replayed / run.ctx.steps,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        together=run.company / run.ctx.steps,
        losses=means.losses,
        parts=means.parts,
        curve=curve.points,
        blueprint=run.blueprint,
    )


def _metrics(run: Run, means: Log, curve: Curve, epoch: int) -> dict[str, float]:
    """What a sink is told at the end of an epoch: means of its losses, its last learning rate, new accuracies."""
    parts = {f"loss_parts/{name}": values[-1] for name, values in means.parts.items()}
    known = {name: value for name, value in parts.items() if value is not None}
    metrics = {"loss": means.losses[-1], **known, "learning_rate": run.rate}
    if curve.points and (point := curve.points[-1]).epoch == epoch:
        metrics |= {"accuracy/train": point.train_accuracy, "accuracy/validation": point.validation_accuracy}
    return metrics


def _progress(run: Run, means: Log, curve: Curve, seconds: float) -> dict[str, Any]:
    counts = {"forward": run.passes.forward, "backward": run.passes.backward}
    points = [asdict(point) for point in curve.points]
    return {"training": run.state_dict(), "log": means.state_dict(), "curve": points, "seconds": seconds, **counts}


def _resume(run: Run, means: Log, curve: Curve, state: dict[str, Any]) -> float:
    """Continue where the state was taken; returns the seconds so far."""
    run.load_state_dict(state["training"])
    means.load_state_dict(state["log"], run.ctx.device)
    run.passes.forward, run.passes.backward = state["forward"], state["backward"]
    curve.points = [CurvePoint(**point) for point in state["curve"]]
    return float(state["seconds"])


def warm_up(suite: Suite, data: Dataset, steps: int = 5) -> None:
    """Take a few steps whose result is thrown away: otherwise the first run would pay for loading kernels."""
    device = data.train.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = Run(CE(), suite, data, repetition=0, eager=True)
        for _ in range(min(steps, run.ctx.steps)):
            run.step()


def one_pass(split: Split, batch_size: int) -> Iterator[Batch]:
    """The training set in batches, in order."""
    for index in torch.arange(len(split), device=split.device).split(batch_size):
        yield Batch(split.images(index), split.y[index], index)


def _finite(net: Net) -> bool:
    return bool(torch.stack([p.isfinite().all() for p in net.parameters()]).all())
