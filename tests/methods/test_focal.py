"""Focal loss against its reference, and at probabilities of 0 and 1."""

import pytest
import torch
from support import assert_same, reference, stage
from torch import nn

from marginbench.methods import Batch, MarginbenchError, Net, create


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_matches_its_reference(gamma: float) -> None:
    method, net, batch, ctx = stage(f"focal(gamma={gamma})")
    assert_same(method.loss(net, batch, ctx).total, reference("focal").loss(net, batch.x, batch.y, gamma=gamma), net)


def test_focal_falls_with_gamma() -> None:
    losses = []
    for gamma in (0, 0.5, 1, 5):
        method, net, batch, ctx = stage(f"focal(gamma={gamma})")
        losses.append(method.loss(net, batch, ctx).total.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_focal_at_even_odds() -> None:
    method, _, _, ctx = stage("focal(gamma=3)")
    net, y = Net(nn.Identity(), nn.Sequential(), nn.Identity()), torch.tensor([0, 1])
    found = method.loss(net, Batch(torch.zeros(2, 2, dtype=torch.float64), y, y), ctx).total
    torch.testing.assert_close(found, 2**-3 * torch.tensor(2.0, dtype=torch.float64).log())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_examples_have_finite_gradients(gamma: float) -> None:
    method, _, _, ctx = stage(f"focal(gamma={gamma})")
    net, y = Net(nn.Identity(), nn.Sequential(), nn.Identity()), torch.tensor([0, 1])
    logits = torch.tensor([[500.0, 0.0, 0.0], [500.0, 0.0, 0.0]], requires_grad=True)  # right and wrong
    loss = method.loss(net, Batch(logits, y, y), ctx).total
    loss.backward()
    assert loss.item() == 250 and logits.grad is not None
    assert not logits.grad[0].any() and logits.grad[1].tolist() == [0.5, -0.5, 0.0]


def test_bad_fields_are_refused() -> None:
    with pytest.raises(MarginbenchError, match="focal"):
        create("focal(gamma=-1)")
