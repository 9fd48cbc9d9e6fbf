"""An inner attack looks for images that the network itself leads to; noise is none, however often it is drawn."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from contract_support import Mutant, info
from torch import Tensor, nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Info, Loss, Method, Net, cross_entropy

ATTACK = info(needs=frozenset({"input_grad", "inner_attack"}))


def noise(batch: Batch, ctx: Context) -> Tensor:
    return 0.1 * torch.randn(batch.x.shape, generator=ctx.generator)


class Noisy(Mutant):
    """L = mean_j CE(z(x + n_j), y), images x and noise n_j [B, C, H, W]."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(sum((cross_entropy(net(batch.x + noise(batch, ctx)), batch) for _ in range(3)), torch.zeros(())))


class Hardest(Mutant):
    """L = CE of the worse half of the images."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        with torch.no_grad():
            right = net(batch.x).gather(1, batch.y[:, None])[:, 0]
        half = right.argsort()[: len(right) // 2]
        return Loss(cross_entropy(net(batch.x[half]), Batch(batch.x[half], batch.y[half], batch.index[half])))


class NoiseAsAttack(Noisy):
    """L = mean_j CE(z(x + n_j), y), said to attack."""

    info: ClassVar[Info] = ATTACK


class Backward(Mutant):
    """L = CE(z(x'), y), x' = x + 0.1 sign of the gradient, which backward() leaves in x.grad."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x = batch.x.clone().requires_grad_()
        cross_entropy(net(x), batch).backward()
        net.zero_grad()
        assert x.grad is not None
        return Loss(cross_entropy(net(batch.x + 0.1 * x.grad.sign()), batch))


class OwnFormula(Mutant):
    """L = CE(z a, y), where a = d/dt t^2 / 2 at t = 1: a gradient, but of nothing that the network computes."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        t = torch.ones((), requires_grad=True)
        (a,) = torch.autograd.grad(t**2 / 2, t)
        return Loss(cross_entropy(a * net(batch.x), batch))


class WorstFeatures(Mutant):
    """L = CE(h(phi'), y), phi' = phi + 0.1 g / |g|, g the gradient of CE(h(phi), y) with respect to phi."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        phi = net.features(batch.x)
        (slope,) = torch.autograd.grad(cross_entropy(net.head(phi), batch), phi, create_graph=True)
        return Loss(cross_entropy(net.head(phi + 0.1 * nn.functional.normalize(slope)), batch))


class WorstHidden(Mutant):
    """L = CE(z, y) + |g|^2, g the gradient with respect to what the last layer of the body gets."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        layer = [module for module in net.body.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        loss = cross_entropy(net(batch.x), batch)
        handle.remove()
        (slope,) = torch.autograd.grad(loss, seen[0], create_graph=True)
        return Loss(loss + slope.square().sum())


class DrawsAnew(Mutant):
    """L = CE(z(x + n), y), n from a generator that nobody has seeded."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        noise = np.random.default_rng().normal(size=tuple(batch.x.shape))
        return Loss(cross_entropy(net(batch.x + torch.from_numpy(noise).to(batch.x)), batch))


class DeclaredBackward(Backward):
    """L = CE(z(x'), y), and says so."""

    info: ClassVar[Info] = ATTACK


class RandomSearch(Mutant):
    """L = CE(z(x'), y), x' found without gradients: noise is kept where it raises the loss, and more is added."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        best = batch.x
        with torch.no_grad():
            for _ in range(3):
                trial = best + noise(batch, ctx)
                worse = [net(x).gather(1, batch.y[:, None]) for x in (best, trial)]
                best = torch.where((worse[1] < worse[0])[:, :, None, None], trial, best)
        return Loss(cross_entropy(net(best), batch))


class Penalty(Mutant):
    """L = CE(z, y) + |grad_x CE|^2, by backward()."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x = batch.x.clone().requires_grad_()
        loss = cross_entropy(net(x), batch)
        slopes: list[Tensor] = []
        x.register_hook(slopes.append)
        loss.backward(create_graph=True, inputs=[x])
        x.grad = None
        return Loss(loss + slopes[0].square().sum())


@pytest.mark.parametrize(
    "method", [Noisy, Hardest, OwnFormula, WorstFeatures, DeclaredBackward], ids=lambda method: method.__name__
)
def test_what_is_declared_and_done_is_accepted(method: type[Method]) -> None:
    result = run_check("needs_declared", method())
    assert result.status == "passed", result.reason


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    ("method", "words"),
    [
        (NoiseAsAttack, "in Info.needs but not observed: inner_attack, input_grad"),
        (Backward, "observed but not in Info.needs: inner_attack, input_grad"),
        (RandomSearch, "observed but not in Info.needs: inner_attack, input_grad"),
        (Penalty, "observed but not in Info.needs: input_grad, second_order"),
        (WorstHidden, "observed but not in Info.needs: input_grad, second_order"),
        (DrawsAnew, "the same seed gives other images in another call: draw random numbers from ctx.generator alone"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_declared_or_not_done_is_refused(method: type[Method], words: str) -> None:
    result = run_check("needs_declared", method())
    assert result.status == "failed" and result.reason == words
