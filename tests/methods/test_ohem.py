"""Hard example mining against sorting, and what it leaves out."""

import pytest
import torch
from support import EXACT, assert_same, reference, stage

from marginbench.methods import Batch, MarginbenchError, create


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 3), (0.26, 4), (0.5, 6), (1.0, 12)])
def test_ohem_matches_its_reference(share: float, count: int) -> None:
    method, net, batch, ctx = stage(f"ohem(share={share})")
    assert_same(method.loss(net, batch, ctx).total, reference("ohem").loss(net, batch.x, batch.y, count=count), net)


def test_easy_examples_get_no_gradient() -> None:
    method, net, batch, ctx = stage("ohem(share=0.5)")
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.loss(net, Batch(x, batch.y, batch.index), ctx).total, x)
    losses = torch.nn.functional.cross_entropy(net(batch.x), batch.y, reduction="none")
    touched = slope.flatten(1).any(1)
    assert int(touched.sum()) == 6 and losses[touched].min() > losses[~touched].max()


def test_the_smallest_share_is_the_hardest_example() -> None:
    method, net, batch, ctx = stage("ohem(share=0.01)")
    losses = torch.nn.functional.cross_entropy(net(batch.x), batch.y, reduction="none")
    torch.testing.assert_close(method.loss(net, batch, ctx).total, losses.max(), **EXACT)


@pytest.mark.parametrize("spec", ["ohem(share=0)", "ohem(share=1.1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="ohem"):
        create(spec)
