"""What the contract does not test of every method: the neutral setting in float64, and fields that are refused."""

import pytest
import torch
from support import a_batch, a_context, a_net, assert_same, reference, stage

from marginbench.methods import (
    Batch,
    Context,
    Loss,
    MarginbenchError,
    Method,
    Net,
    create,
    get,
    names,
)
from marginbench.methods.registry import rows


@pytest.mark.parametrize("key", [key for key in names() if not isinstance(get(key).info.neutral, str)])
def test_neutral_setting_is_cross_entropy(key: str) -> None:
    neutral = create(key).info.neutral
    assert not isinstance(neutral, str)
    method = type(create(key))(**neutral)
    net = a_net(method)
    batch = a_batch(net)
    assert_same(method.loss(net, batch, a_context(epoch=3)).total, reference("ce").loss(net, batch.x, batch.y), net)


WHOLE = {"ohem": "ohem(share=0.25)"}  # a tenth of 12 examples is rounded


@pytest.mark.parametrize("spec", [WHOLE.get(row, row) for row in rows() if row != "triplet"])  # a mean over pairs
def test_every_example_twice_is_the_same_loss(spec: str) -> None:
    """What is summed over a batch, or rooted, would be stronger in larger ones."""
    method, net, batch, ctx = stage(spec, epoch=3)
    _check_twice(method, net, batch, ctx)


class Summed(Method):
    """L = sum_i CE_i: what the test above is for."""

    info = create("ce").info

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(len(batch.y) * super().loss(net, batch, ctx).total)


def test_a_sum_over_the_batch_is_found() -> None:
    _, net, batch, ctx = stage("ce")
    with pytest.raises(AssertionError, match="not close"):
        _check_twice(Summed(), net, batch, ctx)


def _check_twice(method: Method, net: Net, batch: Batch, ctx: Context) -> None:
    batch = method.augment(batch, ctx)
    before = ctx.generator.get_state(), torch.get_rng_state()
    loss = method.loss(net, batch, ctx).total
    after = ctx.generator.get_state(), torch.get_rng_state()
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        pytest.skip("draws at random: only the mean is the same")
    target = None if batch.target is None else batch.target.repeat(2, 1)
    twice = Batch(batch.x.repeat(2, 1, 1, 1), batch.y.repeat(2), batch.index.repeat(2), target)
    assert_same(method.loss(net, twice, a_context(epoch=3)).total, loss, net)


@pytest.mark.parametrize(
    "spec",
    [
        "arcface(m=-1)",
        "arcface(s=0)",
        "pmm(alpha_end=-1)",
        "pmm(form=sum)",
        "jacobian_reg(projections=0)",
        "jacobian_reg(projections=all)",
        "jacobian_reg(weight=-1)",
        "mma(d_max=-0.1)",
        "mma(norm=l1)",
        "mma(clean_weight=2)",
        "mma(steps=0)",
        "lmt(c=-1)",
        "lmt(variant=plusplus)",
        "ce(alpha=1)",
    ],
)
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match=spec.partition("(")[0]):
        create(spec)
