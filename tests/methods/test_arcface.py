"""ArcFace against its reference, its head, and the ends of the angle."""

import math

import pytest
import torch
from support import EXACT, TASK, a_net, assert_same, gradients, reference, stage
from torch import nn

from marginbench.methods import (
    Batch,
    MarginbenchError,
    create,
)


@pytest.mark.parametrize("easy", ["true", "false"])
@pytest.mark.parametrize("m", [0.0, 0.5, 1.4])
def test_arcface_matches_its_reference(m: float, easy: str) -> None:
    method, net, batch, ctx = stage(f"arcface(s=8,m={m},easy_margin={easy},warm_up=0)")
    wanted = reference("arcface").loss(net, batch.x, batch.y, s=8, m=m, easy_margin=easy == "true")
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_arcface_target_at_chosen_angles() -> None:
    method = create("arcface")
    theta = torch.tensor([0.3, 1.0, math.pi - 0.5 - 1e-9, math.pi - 0.5 + 1e-9, math.pi], dtype=torch.float64)
    target = method._target(theta.cos(), 0.5)
    torch.testing.assert_close(target[:3], (theta[:3] + 0.5).cos(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(target[4].item(), -1 - 0.5 * math.sin(0.5))
    step = 1 - math.cos(0.5) - 0.5 * math.sin(0.5)
    torch.testing.assert_close((target[3] - target[2]).item(), step, rtol=0, atol=1e-7)
    assert step == pytest.approx(-0.1173, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arcface_gradient_is_finite_at_the_ends(dtype: torch.dtype) -> None:
    cosine = torch.tensor([1.0, -1.0, 1 + 1e-7, 1 - 1e-7], dtype=dtype, requires_grad=True)
    create("arcface")._target(cosine, 0.5).sum().backward()
    assert cosine.grad is not None and bool(cosine.grad.isfinite().all())


def test_arcface_margin_comes_as_the_learning_rate_falls() -> None:
    for epoch, share in ((0, 0.0), (4, 0.8**4)):  # nobody tells the rate: it falls linearly
        method, net, batch, ctx = stage("arcface(warm_up=4)", epoch)
        wanted = reference("arcface").loss(net, batch.x, batch.y, s=64, m=0.5 * share)
        assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("spec", ["arcface(m=0.5)", "mv_arc"])
def test_losses_on_angles_tell_the_share_of_examples_beyond_the_margin(spec: str) -> None:
    method, net, _, ctx = stage(spec)
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    theta = torch.tensor([0.0, 2.0, math.pi - 0.51, math.pi - 0.49, math.pi], dtype=torch.float64)
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(4, 6))
    features = torch.zeros(5, 6, dtype=torch.float64)
    features[:, 0], features[:, 5] = theta.cos(), theta.sin()
    y = torch.zeros(5, dtype=torch.int64)
    assert method.loss(net, Batch(features, y, y), ctx).parts["beyond"].item() == pytest.approx(0.4)


def test_arcface_survives_parallel_and_zero_features() -> None:
    method, net, _, ctx = stage("arcface")
    features = torch.cat([net.head.weight[:3].detach(), -net.head.weight[:3].detach(), torch.zeros(1, 6)]).to(
        torch.float32
    )
    net = net.float()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = method.loss(net, Batch(features, y, y), ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


def test_arcface_head_knows_directions_only() -> None:
    method, net, batch, ctx = stage("arcface")
    loss, z = method.loss(net, batch, ctx).total, net(batch.x)
    assert [name for name, _ in net.head.named_parameters()] == ["weight"]
    (slope,) = torch.autograd.grad(loss, net.head.weight)
    torch.testing.assert_close((slope * net.head.weight).sum(1), torch.zeros(4, dtype=torch.float64), **EXACT)
    with torch.no_grad():
        net.head.weight.mul_(torch.tensor([[0.5], [1], [2], [30]], dtype=torch.float64))
    torch.testing.assert_close(net(batch.x), z, **EXACT)
    torch.testing.assert_close(method.loss(net, batch, ctx).total, loss, **EXACT)


def test_arcface_decision_layer_keeps_every_gap_up_to_one_factor() -> None:
    _, net, batch, _ = stage("arcface")
    state = torch.get_rng_state()
    scores = net.decision_net()(batch.x)
    assert torch.equal(torch.get_rng_state(), state)
    norm = net.features(batch.x).norm(dim=1, keepdim=True)
    torch.testing.assert_close(scores * 64 / norm, net(batch.x), **EXACT)


def test_arcface_replaces_linear_heads_only() -> None:
    net = a_net(create("ce"))
    net.head = nn.Identity()
    with pytest.raises(MarginbenchError, match="linear head"):
        create("arcface").build(net, TASK)
