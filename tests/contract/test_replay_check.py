"""Replays are compared to the bit, rounding is allowed for what it does, and faults are named."""

import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from contract_support import Mutant
from torch import Tensor

from marginbench.benchmarks.contract import replay_check
from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Loss, Method, Net, Task, cross_entropy


class Chaotic(Mutant):
    """L = CE(z, y) + |z(x') - z|^2, x' by steps along the sign of a gradient of almost nothing."""

    def build(self, net: Net, task: Task) -> Net:
        net.register_buffer("factor", torch.ones(()))
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z = net(batch.x)
        x = batch.x + 1e-6 * torch.randn(batch.x.shape, generator=ctx.generator)
        for _ in range(3):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((net(x) - z.detach()).square().sum(), x)
            x = x + 0.05 * gradient.sign()
        risk = ctx.schedule(lambda: 1 + 0.3 * ctx.progress) * self._factor(net) * cross_entropy(z, batch)
        return Loss(risk + 0.1 * (net(x) - z).square().mean())

    def _factor(self, net: Net) -> Tensor | float:
        return net.get_buffer("factor").mul_(1 + 1e-6)


class ChaoticNumber(Chaotic):
    """The same, with the factor in a number of Python."""

    def _factor(self, net: Net) -> Tensor | float:
        net.times = getattr(net, "times", 1.0) * (1 + 1e-6)  # type: ignore[assignment, operator]
        return net.times  # type: ignore[return-value]


class ChaoticTensor(Chaotic):
    """The same, with the factor in a new tensor each time."""

    def _factor(self, net: Net) -> Tensor | float:
        net.factor = net.get_buffer("factor") * (1 + 1e-6)
        return net.get_buffer("factor")


class Average(Mutant):
    """L = CE(z, y), and an average of the weights for the end, which each step makes anew."""

    def build(self, net: Net, task: Task) -> Net:
        net.register_buffer("average", next(net.parameters()).detach().clone())
        return net

    def after_step(self, net: Net, ctx: Context) -> None:
        net.register_buffer("average", 0.9 * net.get_buffer("average") + 0.1 * next(net.parameters()))


class AverageInPlace(Average):
    """The same, changed in place."""

    def after_step(self, net: Net, ctx: Context) -> None:
        net.get_buffer("average").lerp_(next(net.parameters()), 0.1)


class Elsewhere(Mutant):
    """L = a_t CE(z, y), with a_t outside of the network."""

    kept: ClassVar[list[float]] = []

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        self.kept.append(0.0)
        return Loss(super().loss(net, batch, ctx).total * len(self.kept))


class AsksForTheType(Mutant):
    """L = a_t CE(z, y), with a_t that depends on whether it is a number."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        factor = ctx.schedule(lambda: 1 + ctx.progress)
        return Loss(super().loss(net, batch, ctx).total * (1.001 if isinstance(factor, float) else 1))


class ChaoticAsksForTheType(Chaotic):
    """The same in a training that amplifies rounding: it differs from the first step."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        factor = ctx.schedule(lambda: 1 + ctx.progress)
        return Loss(super().loss(net, batch, ctx).total * (1.001 if isinstance(factor, float) else 1))


class Waits(Mutant):
    """L = CE(z, y), and looks at it."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        loss = super().loss(net, batch, ctx)
        return self._looked_at(loss)

    def _looked_at(self, loss: Loss) -> Loss:
        return loss if loss.total > 0 else Loss(-loss.total)


class Masks(Mutant):
    """L = CE(z, y) of the examples of some classes."""

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        mask = batch.y < 10
        return Batch(batch.x[mask], batch.y[mask], batch.index[mask])


@pytest.mark.parametrize(
    ("method", "hook", "line", "words"),
    [
        (
            Waits,
            "loss",
            "return loss if loss.total > 0",
            "a number of Python is made of a tensor, as by item(), float()",
        ),
        (Masks, "augment", "return Batch(batch.x[mask]", "indexing with a mask, for which gather() or torch.where()"),
    ],
)
def test_the_line_that_waits_for_the_device_is_named(method: type[Method], hook: str, line: str, words: str) -> None:
    number = 1 + next(i for i, text in enumerate(Path(__file__).read_text().splitlines()) if line in text)
    result = run_check("replays", method())
    assert result.status == "skipped" and result.reason.startswith(f"waits for the device: {words}"), result
    assert result.reason.endswith(f"(test_replay_check.py, line {number}, hook {hook} of class {method.__name__})")


def test_rounding_is_no_fault_of_a_method_that_amplifies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_check("replays", Chaotic())
    assert result.status == "passed", result.reason
    monkeypatch.setattr(replay_check, "TIMES", 0)  # its numbers differ by more than rounding alone would explain
    assert run_check("replays", Chaotic()).status == "failed"


def test_state_that_is_changed_in_place_is_replayed() -> None:
    result = run_check("replays", AverageInPlace())
    assert result.status == "passed", result.reason


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (ChaoticNumber, r"net\.times is a number of Python \(1\.0000\d*, then 1\.0000\d*\), which a recording keeps"),
        (ChaoticTensor, r"each step makes a new tensor of net\.factor: change it in place"),
        (
            Average,
            r"the losses are the same, but not net\.average at the end: each step makes a new tensor of net\.aver",
        ),
        (Elsewhere, r"instead of \d[\d.e-]*: probably something that Python computes or keeps"),
        (AsksForTheType, r"the loss of step 0 is .* where ctx\.schedule gives a tensor and .* a number"),
        (ChaoticAsksForTheType, r"the loss of step 0 is .* where ctx\.schedule gives a tensor and .* a number"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_found_and_named(method: type[Method], words: str) -> None:
    result = run_check("replays", method())
    assert result.status == "failed" and re.search(words, result.reason), result.reason
