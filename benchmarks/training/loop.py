"""Training one network: the benchmark owns network, order of the data, optimiser, schedule and seeds."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.device import seconds_on
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.machine.upload import upload
from marginbench.benchmarks.records.record import CurvePoint
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.blueprint import Blueprint, needs_radii, task_of
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.curve import Curve
from marginbench.benchmarks.training.log import Log
from marginbench.benchmarks.training.optimiser import decay, lr_factor, make_optimiser, replayable
from marginbench.benchmarks.training.pixels import pixel_statistics
from marginbench.benchmarks.training.replay import CudaGraph, Recorder, Replay
from marginbench.benchmarks.training.untouched import untouched
from marginbench.methods import Batch, Context, Loss, Method, Net, spec_of
from marginbench.methods.baselines.ce import CE
from marginbench.methods.hooks import returned

log = logging.getLogger(__name__)

HOW = ("fused", "foreach", "capturable")  # how this machine runs an optimiser: no part of a checkpoint


@dataclass(frozen=True)
class How:
    """How a training is done, which does not change what comes out."""

    checkpoint: Checkpoint = field(default_factory=Checkpoint)  # it goes on from there, and saves from time to time
    deadline: Deadline = field(default_factory=Deadline)  # of training and evaluation together
    eager: bool = False  # see `Run`
    curve_every: int | None = None  # see `Curve`


class DivergedError(RuntimeError):
    """A loss or weight became NaN or infinite."""


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode, with what it cost."""

    net: Net
    seconds: float  # wall time of all steps
    steps: int
    forward: float  # images forward per training image seen
    backward: float
    replayed: float | None  # share of the steps that were replayed, CUDA only
    peak_bytes: int | None  # CUDA only
    losses: list[float]  # mean loss of each epoch
    parts: dict[str, list[float | None]]  # the same of its parts, see `Log`
    curve: list[CurvePoint]
    blueprint: Blueprint


class Run:
    """One training in progress. Loading its `state_dict` into a fresh object and going on there changes nothing.

    Args:
        eager: on CUDA, do every step instead of replaying a recorded one.
        recorder: replaces CUDA graphs; called with the generator of the method's random numbers.
    """

    def __init__(
        self,
        method: Method,
        suite: Suite,
        data: Dataset,
        repetition: int,
        *,
        eager: bool = False,
        recorder: Callable[[torch.Generator], Recorder] | None = None,
    ) -> None:
        self.method = method
        self.suite = suite
        self.split = data.train
        device, draws = data.train.device, suite.stream_name
        counts = torch.bincount(data.train.y, minlength=data.num_classes).tolist()
        task = task_of(method, data.shape, tuple(counts), suite.trained_for if needs_radii(method) else None)
        mean, std = pixel_statistics(data.train)
        self.blueprint = Blueprint(method, suite.network, task, draws, repetition)
        self.net = self.blueprint.build(mean, std, device).train()
        self.passes = PassCounter(self.net)
        self.batch_size = min(suite.training.batch_size, len(self.split))
        self.steps_per_epoch = len(self.split) // self.batch_size
        epochs = suite.training.epochs
        stream = seeds.generator(device, draws, "method", method.info.key, repetition)
        self.ctx = Context(task, epochs * self.steps_per_epoch, epochs, stream, partial(decay, suite.training))
        if device.type == "cuda" and not eager and not method.info.eager and replayable(suite.training):
            recorder = CudaGraph
        self.optimiser = make_optimiser(method, suite.training, self.net, recorder is not None)
        self.replay = Replay(self.ctx, self.passes, self.optimiser, recorder(stream)) if recorder else None
        self._rates = [torch.zeros((), device=device) for _ in self.optimiser.param_groups] if recorder else None
        self.order_seed = (draws, "order", repetition)
        self._augment, self._fill = suite.training.augment, mean.to(device)
        if self._augment is not None:
            self._augment.check(self.split.images(slice(2)), self._fill)
        self._augment_stream = seeds.generator("cpu", draws, "augment", repetition)  # the same for every method
        self._order = torch.empty(0)
        self._order_epoch = -1
        self._watched = False  # this step: whether hooks leave alone what they must
        self.parts: Mapping[str, Tensor] = {}  # of the loss, in the latest step

    def step(self) -> Tensor:
        """One optimiser step; returns the loss, still on the device, and valid until the next step like `parts`.

        The first of each epoch is watched, see `untouched`; of steps that may be recorded, the very first alone.

        Raises:
            HookError: a hook did what it must not.
        """
        self._set_rates()
        epoch = self._order_epoch
        batch = self._batch()
        self._watched = self._order_epoch != epoch and (self.replay is None or epoch < 0)
        loss = self._do(batch) if self.replay is None else self.replay(self._do, batch)
        self.ctx.step += 1
        self.parts = loss.parts
        return loss.total

    def _set_rates(self) -> None:
        settings = self.suite.training
        rate = settings.learning_rate * lr_factor(settings, self.ctx.progress)
        for index, group in enumerate(self.optimiser.param_groups):
            own = rate * group.get("lr_scale", 1.0)
            group["lr"] = own if self._rates is None else self._rates[index].fill_(own)

    def _do(self, batch: Batch) -> Loss:
        """The part of a step that is recorded: it does not depend on where training stands."""
        method, bf16 = self.method, self.suite.training.precision == "bf16"
        with torch.autocast(self.ctx.device.type, torch.bfloat16, enabled=bf16):
            with self._watching(method.augment, batch):
                batch = returned(method.augment, method.augment(batch, self.ctx), Batch, "as in replace(batch, x=x)")
            with self._watching(method.loss if type(method).update is Method.update else method.update, batch):
                loss = method.update(self.net, batch, self.ctx, self.optimiser)
                loss = returned(method.update, loss, Loss, "end it with `return Loss(total)`")
        with torch.no_grad(), self._watching(method.after_step):
            method.after_step(self.net, self.ctx)
        return Loss(loss.total.detach(), {name: part.detach() for name, part in loss.parts.items()})

    def _watching(self, hook: Callable[..., Any], batch: Batch | None = None) -> AbstractContextManager[None]:
        return untouched(hook, self.net, batch) if self._watched else nullcontext()

    def _batch(self) -> Batch:
        epoch, position = divmod(self.ctx.step, self.steps_per_epoch)
        if epoch != self._order_epoch:  # drawn on the CPU, the same on every device
            stream = seeds.generator("cpu", *self.order_seed, epoch)
            self._order = torch.randperm(len(self.split), generator=stream)
            self._order_epoch = epoch
        here = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        index = upload(here, self.ctx.device)
        x = self.split.images(
            here if self.split.x.device.type == "cpu" else index
        )  # images may be on the host or the device
        if self._augment is not None:
            x = self._augment(x, self._fill, self._augment_stream)
        return Batch(x, self.split.y[index], index)

    def state_dict(self) -> dict[str, Any]:
        """All that a step depends on: weights, optimiser, tables, counters, generators."""
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "tables": self.ctx.tables,
            "step": self.ctx.step,
            "stream": self.ctx.generator.get_state(),
            "augment": self._augment_stream.get_state(),
            "dropout": _get_rng(self.ctx.device),
            "replayed": 0 if self.replay is None else self.replay.replayed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.net.load_state_dict(state["net"])
        here = [{name: group[name] for name in HOW if name in group} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, how in zip(self.optimiser.param_groups, here, strict=True):
            group.update(how)
        if self.replay is not None:
            self.replay.replayed = state["replayed"]
        self.ctx.tables = {name: table.to(self.ctx.device, copy=True) for name, table in state["tables"].items()}
        self.ctx.step = state["step"]
        self.ctx.generator.set_state(state["stream"])
        self._augment_stream.set_state(state["augment"])
        _set_rng(self.ctx.device, state["dropout"])


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
    checkpoint, deadline = how.checkpoint, how.deadline
    deadline.enter("while the network was built")
    run = Run(method, suite, data, repetition, eager=how.eager)
    curve, device = Curve(data, how.curve_every), run.ctx.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with seeds.seeded(device, suite.stream_name, "dropout", repetition), run.passes as passes:
        means, before = Log(), 0.0
        if (state := checkpoint.load()) is not None:
            before = _resume(run, means, curve, state)
        start = seconds_on(device)
        deadline.enter(f"in epoch {len(means.losses) + 1} of {run.ctx.epochs}")
        while run.ctx.step < run.ctx.steps:
            means.add(run.step(), run.parts)
            epoch, position = divmod(run.ctx.step, run.steps_per_epoch)
            if position == 0:
                if not (math.isfinite(means.end_epoch()) and _finite(run.net)):
                    raise DivergedError(f"loss or weights not finite in epoch {epoch} of {run.ctx.epochs}")
                if curve.due(epoch, run.ctx.epochs):
                    began = seconds_on(device)
                    curve.add(epoch, run.net, passes)
                    start += seconds_on(device) - began  # it is no part of the method's cost
                deadline.enter(f"in epoch {min(epoch + 1, run.ctx.epochs)} of {run.ctx.epochs}")
            if checkpoint.due or deadline.over:
                seconds = before + seconds_on(device) - start
                checkpoint.save(_progress(run, means, curve, seconds))
                deadline.check(f"in epoch {epoch + 1} of {run.ctx.epochs}")
        seconds = before + seconds_on(device) - start
        run.optimiser.zero_grad(set_to_none=True)
        deadline.enter("while the training was finished")
        with untouched(method.finish):
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
        losses=means.losses,
        parts=means.parts,
        curve=curve.points,
        blueprint=run.blueprint,
    )


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


def _get_rng(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _finite(net: Net) -> bool:
    return bool(torch.stack([p.isfinite().all() for p in net.parameters()]).all())
