"""One training in progress: what a step does, and all that it depends on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.machine.upload import upload
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.applicable import check_applicable
from marginbench.benchmarks.training.blueprint import Blueprint, needs_radii, task_of
from marginbench.benchmarks.training.group import Group
from marginbench.benchmarks.training.optimiser import decay, lr_factor, make_optimiser, replayable
from marginbench.benchmarks.training.pixels import pixel_statistics
from marginbench.benchmarks.training.recorder import CudaGraph, Recorder
from marginbench.benchmarks.training.replay import Replay
from marginbench.benchmarks.training.untouched import untouched
from marginbench.methods import Batch, Context, Loss, MarginbenchError, Method
from marginbench.methods.hooks import holding, returned

HOW = ("fused", "foreach", "capturable")  # how this machine runs an optimiser: no part of a checkpoint


class Run:
    """One training in progress. Loading its `state_dict` into a fresh object and going on there changes nothing.

    Args:
        eager: on CUDA, do every step instead of replaying a recorded one.
        recorder: makes what replaces CUDA graphs.
        compiled: the body of the network goes through torch.compile, which rounds otherwise.

    Attributes:
        recorder: makes what records the steps; None where they are done one by one.
        replay: its part in a recording.
        draws: torch's global generators, of which dropout draws.
        company: over all steps, how many runs were stepped together.
    """

    def __init__(
        self,
        method: Method,
        suite: Suite,
        data: Dataset,
        repetition: int,
        *,
        eager: bool = False,
        recorder: Callable[[], Recorder] | None = None,
        compiled: bool = False,
    ) -> None:
        check_applicable(method, data)
        self.method = method
        self.suite = suite
        self.split = data.train
        device, draws = data.train.device, suite.stream_name
        counts = torch.bincount(data.train.y, minlength=data.num_classes).tolist()
        task = task_of(method, data.shape, tuple(counts), suite.trained_for if needs_radii(method) else None)
        mean, std = pixel_statistics(data.train)
        self.blueprint = Blueprint(method, suite.network, task, draws, repetition, data.checkpoint)
        self.net = self.blueprint.build(mean, std, device).train()
        if compiled:  # not the module: its hooks count passes
            vars(self.net.body)["forward"] = torch.compile(self.net.body.forward)
        self.passes = PassCounter(self.net)
        self.batch_size = min(suite.training.batch_size, len(self.split))
        self.steps_per_epoch = len(self.split) // self.batch_size
        epochs = suite.training.epochs
        stream = seeds.generator(device, draws, "method", method.info.key, repetition)
        self.ctx = Context(task, epochs * self.steps_per_epoch, epochs, stream, partial(decay, suite.training))
        if device.type == "cuda" and not eager and not method.info.eager and replayable(suite.training):
            recorder = partial(CudaGraph, device)
        self.recorder = recorder
        self.optimiser = make_optimiser(method, suite.training, self.net, recorder is not None)
        self.draws = seeds.Draws(device, draws, "dropout", repetition)
        self.replay = Replay(self.ctx, self.passes, self.optimiser, self.draws, self._do) if recorder else None
        self._alone: Group | None = None
        self._rates = [torch.zeros((), device=device) for _ in self.optimiser.param_groups] if recorder else None
        self.order_seed = (draws, "order", repetition)
        self._augment, self._fill = suite.training.augment, mean.to(device)
        if self._augment is not None:
            if data.text is not None:
                raise MarginbenchError("training.augment: of images; sentences are taken as they are")
            self._augment.check(self.split.images(slice(2)), self._fill)
        self._augment_stream = seeds.generator("cpu", draws, "augment", repetition)  # the same for every method
        self._order = torch.empty(0)
        self._order_epoch = -1
        self._watched = False  # this step: whether hooks leave alone what they must
        self.loss = torch.zeros(())  # of the latest step: on the device, and valid until the next one
        self.parts: Mapping[str, Tensor] = {}  # of the loss, likewise
        self.company = 0
        self.rate = 0.0  # the learning rate in the latest step

    def step(self, together: int = 1) -> Tensor:
        """One optimiser step; returns the loss, still on the device, and valid until the next step like `parts`.

        The first of each epoch is watched, see `untouched`; of steps that may be recorded, the very first alone.

        Args:
            together: see `end`.

        Raises:
            HookError: a hook did what it must not.
        """
        with self.draws:
            if self.replay is None or self.recorder is None:
                return self.end(self._do(self.begin()), together)
            if self._alone is None:
                self._alone = Group(self.recorder())
            outcome = self._alone.step({self.replay: self.begin()})[self.replay]
            if isinstance(outcome, Exception):
                raise outcome
            return self.end(outcome, together)

    def begin(self) -> Batch:
        """The batch of the step that comes now; rates are set. `Group.step` and `end` do the rest."""
        self._set_rates()
        epoch = self._order_epoch
        batch = self._batch()
        self._watched = self._order_epoch != epoch and (self.replay is None or epoch < 0)
        return batch

    def end(self, loss: Loss, together: int = 1) -> Tensor:
        """The step is done, as one of so many."""
        self.ctx.step += 1
        self.company += together
        self.loss, self.parts = loss.total, loss.parts
        return loss.total

    def finish(self) -> None:
        """No step is to come: leave the network as its class has made it, without gradients."""
        self.optimiser.zero_grad(set_to_none=True)
        vars(self.net.body).pop("forward", None)  # what is compiled

    def _set_rates(self) -> None:
        settings = self.suite.training
        self.rate = settings.learning_rate * lr_factor(settings, self.ctx.progress)
        for index, group in enumerate(self.optimiser.param_groups):
            own = self.rate * group.get("lr_scale", 1.0)
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
        return untouched(hook, self.net, batch) if self._watched else holding(hook)

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
            "company": self.company,
            "stream": self.ctx.generator.get_state(),
            "augment": self._augment_stream.get_state(),
            "dropout": self.draws.get_state(),
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
        self.draws.set_state(state["dropout"])
        self.company = state.get("company", state["step"])  # a checkpoint of an older version is of a run alone
