"""A training that does not stay finite is told once, in one sentence, and what follows has nothing to test."""

import pytest
import torch
from contract_support import Mutant

from marginbench.benchmarks.contract.check import CHECKS, check, run_check
from marginbench.methods import Batch, Context, Loss, Method, Net


class NotANumber(Mutant):
    """L = NaN."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(super().loss(net, batch, ctx).total * torch.nan)


class Infinite(Mutant):
    """L = inf from the second step on."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(super().loss(net, batch, ctx).total * (torch.inf if ctx.step else 1.0))


class RootOfZero(Mutant):
    """L = CE(z, y) + |z - z|, whose gradient is NaN."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z = net(batch.x)
        return Loss(super().loss(net, batch, ctx).total + (z - z.detach()).square().sum().sqrt())


class NotANumberPart(Mutant):
    """L = CE(z, y), with a part that is NaN."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        total = super().loss(net, batch, ctx).total
        return Loss(total, {"share": total.detach() * torch.nan})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (NotANumber, "the loss is NaN at step 0"),
        (Infinite, "the loss is infinite at step 1"),
        (RootOfZero, "is not finite after step 0, whose loss is 1.6"),
        (NotANumberPart, "Loss.parts['share'] is nan at step 3"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(method: type[Method], words: str) -> None:
    result = run_check("finite_loss", method())
    assert result.status == "failed" and words in result.reason, result


def test_it_is_told_once() -> None:
    results = list(check(NotANumber()))
    failed = [result for result in results if result.status == "failed"]
    assert [result.name for result in failed if result.name not in ("documented", "spec_round_trip")] == ["finite_loss"]
    reasons = {result.reason for result in results if result.status == "skipped"}
    assert reasons == {"the loss is NaN at step 0, see finite_loss"}


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in ("documented", "spec_round_trip")])
def test_every_check_that_trains_says_so(name: str) -> None:
    result = run_check(name, NotANumber())
    assert result.status == "failed" and (
        "the loss is NaN" in result.reason or "loss or weights not finite" in result.reason
    )
