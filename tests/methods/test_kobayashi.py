"""Kobayashi's regulariser against its reference, and the limits where it vanishes."""

import pytest
import torch
from support import EXACT, assert_same, gradients, reference, stage
from torch import nn

from marginbench.methods import Batch, MarginbenchError, Net, create
from marginbench.methods.output_margin.kobayashi import _divergence


@pytest.mark.parametrize("deg_logit", [0.0, 1.0])
def test_kobayashi_matches_its_reference(deg_logit: float) -> None:
    method, net, batch, ctx = stage(f"kobayashi(weight=0.7,deg_logit={deg_logit})")
    wanted = reference("kobayashi").loss(net, batch.x, batch.y, weight=0.7, deg_logit=deg_logit)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_regulariser_does_not_see_the_label() -> None:
    logits = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.arange(8)[:, None] % 5
    values = _divergence(logits, label)
    assert bool((values > 0).all())
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert not slope.gather(1, label).any() and bool(slope.isfinite().all())
    shifted = logits.scatter(1, label, 100.0) + 7
    torch.testing.assert_close(_divergence(shifted, label), values, **EXACT)


def test_regulariser_vanishes_for_equal_rivals_and_for_two_classes() -> None:
    label = torch.tensor([[0], [1], [1]])
    equal = torch.zeros(3, 4, dtype=torch.float64).scatter(1, label, 3.0)
    two = torch.tensor([[1.0, -2.0], [0.0, 5.0], [4.0, 4.0]], dtype=torch.float64)
    for logits in (equal, two):
        logits.requires_grad_()
        values = _divergence(logits, label)
        torch.testing.assert_close(values, torch.zeros(3, dtype=torch.float64), **EXACT)
        (slope,) = torch.autograd.grad(values.sum(), logits)
        torch.testing.assert_close(slope, torch.zeros_like(slope), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    method, _, _, ctx = stage("kobayashi")
    net = Net(nn.Identity(), nn.Sequential(), nn.Linear(4, 4, dtype=dtype))
    x = 1e3 * torch.eye(4, dtype=dtype)
    y = torch.tensor([0, 1, 3, 2])
    loss = method.loss(net, Batch(x, y, y), ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


@pytest.mark.parametrize("spec", ["kobayashi(weight=-1)", "kobayashi(deg_logit=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="kobayashi"):
        create(spec)
