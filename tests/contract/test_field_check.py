"""Fields that change nothing are named; those that matter late, beside another, or after training are not."""

from typing import Any, ClassVar, Literal

import pytest
import torch
from contract_support import Mutant, info
from torch import Tensor, nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Info, Loss, MarginbenchError, Method, Net, Radii, cross_entropy, param
from marginbench.methods.facts import Norm


class Idle(Mutant):
    """L = CE(z, y), with a margin that nobody asks for."""

    margin: float = param(0.5, "margin", unit="1", source="authors' code", search=(0.5, 1.0))


class OnlyRefused(Idle):
    """L = CE(z, y), where no margin at all is an error."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        if self.margin < 0.1:
            raise MarginbenchError("margin: must be 0.1 at least")
        return super().loss(net, batch, ctx)


class DetachedPenalty(Idle):
    """L = CE(z, y) + w |z|^2, whose second term has no gradient."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = net(batch.x)
        return Loss(cross_entropy(logits, batch) + self.margin * logits.detach().square().mean())


class Cancels(Idle):
    """L = (w / w) CE(z, y)."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(cross_entropy(net(batch.x), batch) * (3 * self.margin / 7) / (self.margin / 7 * 3))


class Late(Idle):
    """L = CE(z, y) + w |z|^2 from the sixth epoch on."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = net(batch.x)
        weight = self.margin if ctx.step >= 12 else 0.0
        return Loss(cross_entropy(logits, batch) + weight * logits.square().mean())


class Beside(Idle):
    """L = CE(z, y) + w |z|^2 where it is asked for."""

    mode: Literal["plain", "penalty"] = param("plain", "mode", unit="1", source="section 4", search=("plain",))

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = net(batch.x)
        weight = self.margin if self.mode == "penalty" else 0.0
        return Loss(cross_entropy(logits, batch) + weight * logits.square().mean())


class Certifies(Idle):
    """L = CE(z, y), whose margin is that of the certificate."""

    info: ClassVar[Info] = info()

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii:
        return Radii(x.new_full((len(x),), 1e-6 * self.margin))


class _Clipped(nn.Module):
    level = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.level)


class Afterwards(Idle):
    """L = CE(z, y), with features clipped after training."""

    def finish(self, net: Net, data: Any, ctx: Context) -> Net:
        return self.rebuild(net, ctx.task)

    def rebuild(self, net: Net, task: Any) -> Net:
        net.body.append(_Clipped())
        net.body[-1].level = 0.01 * self.margin  # type: ignore[assignment]
        return net


@pytest.mark.parametrize("method", [Idle, OnlyRefused, DetachedPenalty, Cancels])
def test_a_field_that_changes_nothing_is_named(method: type[Method]) -> None:
    result = run_check("fields_matter", method())
    assert result.status == "skipped" and result.reason.startswith("margin: no other value changes"), result


@pytest.mark.parametrize("method", [Mutant, Late, Beside, Certifies, Afterwards])
def test_a_field_that_matters_is_not(method: type[Method]) -> None:
    result = run_check("fields_matter", method())
    assert result.status == "passed", result.reason
    assert torch.is_grad_enabled()
