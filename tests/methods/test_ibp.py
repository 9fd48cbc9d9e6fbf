"""Interval bound propagation against its reference, and the bounds that the certified methods share."""

import pytest
import torch
from support import TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor, nn

from marginbench.methods import MarginbenchError, Net, NotApplicable, Radii, create
from marginbench.methods.maths.bounds import path as shared
from marginbench.methods.maths.bounds.linear import Ball, adaptive, interval_bounds, interval_margins, linear_margins
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.rows import parallel_relaxations
from marginbench.methods.maths.bounds.search import largest_positive


def ball(x: Tensor, epsilon: float, norm: str = "linf") -> Ball:
    return Ball(x.flatten(1), x.new_full((1, 1), epsilon), norm)  # type: ignore[arg-type]


def all_margins(net: Net, x: Tensor, y: Tensor, epsilon: float) -> dict[str, Tensor]:
    blocks, around = path_of(net, TASK.input_shape), ball(x, epsilon)
    problem = specification(net, y)
    before, features = interval_bounds(blocks, around.box())
    return {
        "ibp": interval_margins(features, *problem),
        "crown_ibp": linear_margins(blocks, [adaptive(b) for b in before], around, *problem),
        "convex_polytope": linear_margins(blocks, parallel_relaxations(blocks, around)[0], around, *problem),
    }


@pytest.mark.parametrize("name", ["mlp", "cnn", "linear"])
@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (2, 0.4), (4, 1.0)])
def test_ibp_matches_its_reference(name: str, epoch: int, share: float) -> None:
    method, net, batch, ctx = stage("ibp(ramp_start=0.2,ramp_end=0.7)", epoch, name=name)
    loss = method.loss(net, batch, ctx)
    layers, logits = reference("ibp").matrices(net, (4, 4)), net(batch.x)
    wanted = reference("ibp").loss(
        batch.x.flatten(1), batch.y, layers, logits, epsilon=0.1 * share, kappa=1 - 0.5 * share
    )
    assert_same(loss.total, wanted, net)


@pytest.mark.parametrize("key", ["ibp", "crown_ibp", "convex_polytope"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_no_point_of_the_ball_falls_below_the_bounds(key: str, name: str) -> None:
    g = torch.Generator().manual_seed(0)
    for seed in range(5):
        net = a_net(create("ce"), name, seed)
        batch = a_batch(net, seed=seed)
        for epsilon in (0.01, 0.05, 0.2):
            lower = all_margins(net, batch.x, batch.y, epsilon)[key]
            assert bool((lower.gather(1, batch.y[:, None]).abs() < 1e-9).all())
            for corner in range(40):
                noise = torch.rand(batch.x.shape, generator=g, dtype=torch.float64) * 2 - 1
                x = (batch.x + epsilon * (noise.sign() if corner % 2 else noise)).clamp(0, 1)
                z = net(x)
                assert bool((z.gather(1, batch.y[:, None]) - z >= lower - 1e-9).all())


def test_linear_bounds_are_mostly_tighter_than_intervals() -> None:
    wins = []
    for seed in range(5):
        net = a_net(create("ce"), "cnn", seed)
        batch = a_batch(net, seed=seed)
        found = all_margins(net, batch.x, batch.y, 0.02)
        wins += [(found[key] >= found["ibp"] - 1e-9).double().mean() for key in ("crown_ibp", "convex_polytope")]
        wider = all_margins(net, batch.x, batch.y, 0.03)["ibp"]
        assert bool((wider <= found["ibp"] + 1e-9).all())
    assert torch.stack(wins).min() > 0.9


def test_merging_the_last_layer_tightens() -> None:
    net = a_net(create("ibp"))
    batch = a_batch(net)
    merged = all_margins(net, batch.x, batch.y, 0.05)["ibp"]
    low, high = interval_bounds(path_of(net, TASK.input_shape), ball(batch.x, 0.05).box())[1]
    centre, radius = (low + high) / 2, (high - low) / 2
    z, spread = net.head(centre), radius @ net.head.weight.abs().T
    apart = (z - spread).gather(1, batch.y[:, None]) - (z + spread)
    others = torch.arange(4) != batch.y[:, None]
    assert bool((merged >= apart - 1e-9)[others].all()) and bool((merged > apart + 1e-3)[others].any())


@pytest.mark.parametrize("key", ["ibp", "crown_ibp", "convex_polytope"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radius_of_a_linear_network_is_exact(key: str, norm: str) -> None:
    method = create(key)
    net = a_net(method, "linear")
    x = 0.4 + 0.2 * a_batch(net).x  # so that the box does not cut the ball
    with torch.no_grad():
        net.head.weight.mul_(0.2)
        net.head.bias.zero_()
    answer = method.certify(net, x, norm)  # type: ignore[arg-type]
    if key == "ibp" and norm == "l2":
        assert isinstance(answer, NotApplicable)
        return
    assert isinstance(answer, Radii)
    z, w = net(x), net.head.weight / 0.3
    top = z.argmax(1)
    lengths = torch.linalg.vector_norm(w[top][:, None] - w, ord=1 if norm == "linf" else 2, dim=2)
    wanted = ((z.amax(1, keepdim=True) - z) / lengths).nan_to_num(torch.inf).amin(1)
    inside = wanted < 0.4
    assert bool(inside.any()) and bool((answer.radius <= wanted)[inside].all())
    torch.testing.assert_close(answer.radius[inside], wanted[inside], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("key", ["ibp", "crown_ibp", "convex_polytope"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_gradient_step_leaves_the_class_within_the_radius(key: str, norm: str) -> None:
    method = create(key)
    for seed in range(4):
        net = a_net(method, "cnn", seed)
        x = a_batch(net, count=24, seed=seed).x
        answer = method.certify(net, x, norm)  # type: ignore[arg-type]
        if isinstance(answer, NotApplicable):
            return
        radius, top = answer.radius.view(-1, 1, 1, 1), net(x).argmax(1)
        assert bool((answer.radius > 0).all())
        for rival in range(4):
            delta = torch.zeros_like(x)
            for _ in range(20):
                probe = (x + delta).requires_grad_()
                z = net(probe)
                (slope,) = torch.autograd.grad((z[:, rival] - z.gather(1, top[:, None])[:, 0]).sum(), probe)
                if norm == "linf":
                    delta = (delta + radius / 4 * slope.sign()).clamp(-radius, radius)
                else:
                    delta = delta + radius / 4 * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
                    delta = delta * (radius / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1)
                delta = (x + delta).clamp(0, 1) - x
                assert torch.equal(net(x + delta).argmax(1), top)


def test_large_convolutions_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    net = a_net(create("ce"), "cnn")
    net.body[0] = nn.Conv2d(1, 2, 3, stride=2, padding=1).double()  # 3 taps on 4 pixels: one row is left over
    batch = a_batch(net)
    written_out = all_margins(net, batch.x, batch.y, 0.05)
    monkeypatch.setattr(shared, "DENSE", 0)
    for key, margins in all_margins(net, batch.x, batch.y, 0.05).items():
        assert_same(margins.sum(), written_out[key].sum(), net)
        torch.testing.assert_close(margins, written_out[key])


@pytest.mark.parametrize("key", ["ibp", "crown_ibp", "convex_polytope"])
def test_unknown_layers_are_named(key: str) -> None:
    method = create(key)
    for layer in (
        nn.Tanh(),
        nn.BatchNorm1d(6, track_running_stats=False),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 3, dilation=2),
    ):
        net = a_net(create("ce"))
        net.body.append(layer)
        with pytest.raises(MarginbenchError, match=type(layer).__name__):
            method.build(net, TASK)
        answer = method.certify(net, a_batch(a_net(create("ce"))).x, "linf")
        assert isinstance(answer, NotApplicable) and type(layer).__name__ in answer.reason
    net = a_net(create("ce"))
    net.head = nn.Sequential(nn.Linear(6, 4))
    with pytest.raises(MarginbenchError, match="head"):
        method.build(net, TASK)
    net = a_net(method)
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    assert isinstance(method.certify(net, a_batch(a_net(method)).x, "linf"), NotApplicable)


def test_two_relus_in_a_row_are_one() -> None:
    net = a_net(create("ce"))
    batch = a_batch(net)
    wanted = all_margins(net, batch.x, batch.y, 0.05)
    net.body.append(nn.ReLU())
    net.body.append(nn.Identity())
    for key, margins in all_margins(net, batch.x, batch.y, 0.05).items():
        torch.testing.assert_close(margins, wanted[key])


def test_ramp_without_length_steps() -> None:
    method, net, batch, _ = stage("ibp(ramp_start=0.5,ramp_end=0.5)")
    early, late = (method.loss(net, batch, a_context(epoch)).total for epoch in (2, 3))
    assert early < late


def test_search_finds_the_last_positive_point() -> None:
    roots = torch.tensor([1e-3, 0.02, 0.3, 0.9999, 2.0, 0.5, -1.0], dtype=torch.float64)
    start = torch.stack([roots, 3 * roots], 1)
    for curve in (lambda t: t, lambda t: t.sinh(), lambda t: t.tanh(), lambda t: t.sign() * t.abs().sqrt()):
        seen = torch.zeros_like(roots)

        def function(points: Tensor, rows: Tensor, curve=curve, seen=seen) -> Tensor:  # type: ignore[no-untyped-def]
            value = curve(10 * (roots[rows] - points))
            seen[rows] = torch.where(value > 0, torch.maximum(seen[rows], points), seen[rows])
            return torch.stack([value, 3 * value], 1)

        found = largest_positive(function, start, 1.0, 20)
        assert torch.equal(found, seen)
        torch.testing.assert_close(found, roots.clamp(0, 1), rtol=0, atol=2**-20)
