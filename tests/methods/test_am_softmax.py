"""AM-Softmax and CosFace against their reference, and what the loss must ignore."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, gradients, reference, stage
from torch import Tensor, nn

from marginbench.methods import Batch, MarginbenchError, create, spec_of


@pytest.mark.parametrize("m", [0.0, 0.35, 1.2])
def test_am_softmax_matches_its_reference(m: float) -> None:
    method, net, batch, ctx = stage(f"am_softmax(s=8,m={m})")
    wanted = reference("am_softmax").loss(net, batch.x, batch.y, s=8, m=m)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_cosface_is_am_softmax_with_its_scale() -> None:
    assert create("cosface") == create("am_softmax(s=64.0)") and spec_of(create("cosface")) == "cosface"


def test_am_softmax_rises_with_the_margin() -> None:
    losses = []
    for m in (0.0, 0.1, 0.2, 0.35, 0.5, 1.0):
        method, net, batch, ctx = stage(f"am_softmax(s=8,m={m})")
        losses.append(method.loss(net, batch, ctx).total)
    assert bool((torch.stack(losses).diff() > 0).all())


def test_am_softmax_sees_directions_only() -> None:
    method = create("am_softmax")
    net = a_net(method)
    batch, ctx = a_batch(net), a_context()
    features = net.features(batch.x).detach().requires_grad_()
    net.body, net.normalise = nn.Sequential(), nn.Identity()

    def loss(phi: Tensor) -> Tensor:
        return method.loss(net, Batch(phi, batch.y, batch.index), ctx).total

    value = loss(features)
    (slope,) = torch.autograd.grad(value, features)
    torch.testing.assert_close((slope * features).sum(1), torch.zeros(12, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(loss(features * torch.arange(1, 13)[:, None]), value, **EXACT)
    with torch.no_grad():
        net.head.weight.mul_(torch.tensor([[0.5], [1], [2], [30]], dtype=torch.float64))
    torch.testing.assert_close(loss(features), value, **EXACT)


def test_am_softmax_survives_parallel_and_zero_features() -> None:
    method, net, _, ctx = stage("cosface")
    net = net.float()
    weight = net.head.weight[:3].detach()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = method.loss(net, Batch(torch.cat([weight, -weight, torch.zeros(1, 6)]), y, y), ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


@pytest.mark.parametrize("spec", ["am_softmax(s=0.0)", "am_softmax(m=-0.1)"])
def test_am_softmax_refuses_bad_fields(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="am_softmax"):
        create(spec)
