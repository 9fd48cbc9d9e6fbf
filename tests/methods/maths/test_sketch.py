"""Estimated norms of gradients against the exact ones."""

from functools import partial

import pytest
import torch
from support import TASK, a_batch, a_context, a_net
from torch import Tensor, nn

from marginbench.methods import Net, Norm, NotApplicable, Radii, Residual, create
from marginbench.methods.certified import roll
from marginbench.methods.maths.bounds import sketch as _sketch
from marginbench.methods.maths.bounds.linear import Ball, Path
from marginbench.methods.maths.bounds.path import path_of
from marginbench.methods.maths.bounds.regions import region_of
from marginbench.methods.maths.bounds.rows import parallel_relaxations
from marginbench.methods.maths.bounds.sketch import estimated_bounds, is_wide, sampled_units


def a_residual_net() -> Net:
    """Convolutions, batch norm, and a sum."""
    net = a_net(create("ce"), "cnn")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        branch = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
        body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Residual(branch), nn.ReLU(), nn.Flatten())
        return Net(net.normalise, body, nn.Linear(12, 4)).double()


NETS = {"mlp": lambda: a_net(create("ce"), "mlp"), "cnn": lambda: a_net(create("ce"), "cnn"), "sum": a_residual_net}


def a_path(name: str) -> tuple[Net, Path, Tensor]:
    net = NETS[name]()
    x = a_batch(net, 6).x
    return net, path_of(net, TASK.input_shape, clean=x), x


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.04), ("l2", 0.1)])
def test_many_projections_give_the_exact_bounds(name: str, norm: Norm, epsilon: float) -> None:
    _, path, x = a_path(name)
    ball = Ball(x.flatten(1), x.new_full((1, 1), epsilon), norm)
    exact = parallel_relaxations(path, ball)[0]
    found = estimated_bounds(path, ball, torch.Generator().manual_seed(0), count=20_001)
    assert len(found) == len(exact)
    unstable = 0
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.upper, b.upper, rtol=0.05, atol=0.03)
        torch.testing.assert_close(a.intercept, b.intercept, rtol=0.08, atol=0.02)
        unstable += int((b.intercept > 0).sum())
    assert unstable > 10, "the bounds decide nothing here"


@pytest.mark.parametrize("name", NETS)
def test_all_pixels_give_the_exact_squares(name: str) -> None:
    net, path, x = a_path(name)
    region = region_of(net, x)
    units, squares = sampled_units(path, x.flatten(1), torch.Generator().manual_seed(0), count=16)
    torch.testing.assert_close(units, region.units)
    torch.testing.assert_close(squares, region.unit_lengths("l2").square())


def test_a_few_pixels_give_the_squares_on_average() -> None:
    net, path, x = a_path("cnn")
    stream = torch.Generator().manual_seed(0)
    mean = torch.stack([sampled_units(path, x.flatten(1), stream, count=3)[1] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, region_of(net, x).unit_lengths("l2").square(), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("spec", ["convex_polytope", "convex_polytope(norm=l2)", "roll"])
def test_wide_networks_are_trained_on_estimates(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = create(spec)
    net = a_net(method, "cnn")
    batch = a_batch(net)
    exact = method.loss(net, batch, a_context(4)).total
    monkeypatch.setattr(_sketch, "WIDE", 0)
    monkeypatch.setattr(roll, "sampled_units", partial(sampled_units, count=5))  # there are 16 pixels here
    found = [method.loss(net, batch, a_context(4, seed=seed)).total for seed in range(20)]
    assert len({float(loss.detach()) for loss in found}) == 20, "nothing is drawn"
    found[0].backward()
    gradients = [parameter.grad for parameter in net.body.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in gradients)
    mean = torch.stack(found).mean().detach()
    torch.testing.assert_close(mean, exact.detach(), rtol=0.25, atol=0)


@pytest.mark.parametrize("spec", ["convex_polytope", "mmr", "roll"])
def test_wide_networks_have_no_exact_certificate(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _, x = a_path("mlp")
    assert isinstance(create(spec).certify(net, x, "l2"), Radii)
    monkeypatch.setattr(_sketch, "WIDE", 0)
    answer = create(spec).certify(net, x, "l2")
    assert isinstance(answer, NotApplicable) and answer.reason.startswith("pixels times hidden units exceed 0")


def test_only_large_networks_on_large_images_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    net, path, x = a_path("mlp")
    entries = x[0].numel() * region_of(net, x).units.shape[1]
    monkeypatch.setattr(_sketch, "WIDE", entries)
    assert not is_wide(path, 16)
    monkeypatch.setattr(_sketch, "WIDE", entries - 1)
    assert is_wide(path, 16)
