"""Certified radii: exact where the network is linear, sound everywhere, and never out of a NaN."""

import sys
import warnings

import numpy as np
import pytest
import torch
from certificate_support import SHAPE, certify, images, least_by_bisection, network, predicted
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _bounds, _compat, crown
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.methods import NORMS, MarginbenchError, Norm
from marginbench.methods.maths.rounding import logit_allowance


def least_margin(net: nn.Sequential, x: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        z = net(x)
    own = z.gather(1, label[:, None])
    return (own - z.scatter(1, label[:, None], -torch.inf)).amin(1)


def linear_radius(net: nn.Sequential, x: Tensor, label: Tensor, norm: str) -> Tensor:
    """By bisection in float64: for a linear network the least z_label - z_j over the set has a closed form."""
    net = net.double()
    x, zero = x.double(), torch.zeros(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        weight = (net(torch.eye(64, dtype=torch.float64).view(64, *SHAPE)) - net(zero)).T
        z = net(x)
    gaps = z.gather(1, label[:, None]) - z
    rows = weight[label][:, None] - weight
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.ones(len(x), dtype=torch.float64)
    high *= 1 if norm == "linf" else 8
    flat = x.flatten(1)
    for _ in range(50):
        radius = (low + high) / 2
        if norm == "linf":
            reach = radius[:, None, None]
            room = torch.where(rows > 0, flat[:, None].clamp(max=reach), (1 - flat)[:, None].clamp(max=reach))
            fall = (rows.abs() * room).sum(-1)
        else:
            fall = -least_by_bisection(rows, -flat, 1 - flat, radius)
        safe = ((gaps > fall) | (torch.arange(z.shape[1]) == label[:, None])).all(1)
        low, high = torch.where(safe, radius, low), torch.where(safe, high, radius)
    net.float()
    return low


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
@pytest.mark.parametrize("conv_mode", ["dense", "matrix"])
def test_linear_network_is_exact(norm: str, method: str, conv_mode: str) -> None:
    net, x = network("linear", 1), images(12)
    label = predicted(net, x)
    exact = linear_radius(net, x, label, norm)
    got = certify(net, x, label, norm, method=method, tolerance=1e-4, rounds=30, conv_mode=conv_mode)
    assert isinstance(got, Tensor)
    assert (got <= exact).all()
    if norm == "linf":
        assert (got >= exact * (1 - 1e-3) - 2 * crown.ROUNDING - 2e-5).all()  # the slack is absolute
    elif method != "IBP":  # one multiplier instead of the best, and intervals ignore the box
        assert (got >= exact * 0.95).all() and (got / exact).mean() > 0.98


def test_l2_radius_of_linear_network_away_from_the_edges() -> None:
    net = network("linear", 2)
    x = 0.5 + 0.02 * (images(12) - 0.5)
    label = predicted(net, x)
    exact = linear_radius(net, x, label, "l2")
    inside = exact < 0.45
    assert inside.sum() >= 4
    for method in ("IBP", "CROWN"):
        got = certify(net, x, label, "l2", method=method, tolerance=1e-4, rounds=30, conv_mode="dense")
        assert (got <= exact).all() and (got >= exact * (1 - 1e-3) - 1e-4)[inside].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("kind", "conv_mode"), [("cnn", "dense"), ("cnn", "patches"), ("mlp", "auto")])
def test_nothing_inside_the_radius_changes_the_class(norm: str, kind: str, conv_mode: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for seed in range(3):
        net, x = network(kind, seed), images(10, seed)
        label = predicted(net, x)
        radius = certify(net, x, label, norm, conv_mode=conv_mode)
        assert (radius > 0).float().mean() > 0.8
        for start in range(4):
            point = attack(net, x, label, radius, norm, random_start=start > 0, generator=generator)
            assert (least_margin(net, point, label) > 0).all()


def attack(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    radius: Tensor,
    norm: str,
    random_start: bool,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient descent on the margin, inside the ball and the box."""
    r = radius.view(-1, 1, 1, 1)
    d = r * torch.randn(x.shape, generator=generator) * random_start
    for step in range(20):
        d = project(d, r, norm).add(x).clamp(0, 1).sub(x).requires_grad_()
        z = net(x + d)
        rival = z.scatter(1, label[:, None], -torch.inf).amax(1)
        (g,) = torch.autograd.grad((z.gather(1, label[:, None])[:, 0] - rival).sum(), d)
        g = g.sign() if norm == "linf" else g / g.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
        d = d.detach() - r * g / (1 + step)
    return (x + project(d, r, norm)).clamp(0, 1)


def project(d: Tensor, r: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return torch.clamp(d, -r, r)
    return d * (r / d.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)).clamp(max=1)


def test_search_agrees_with_bisection() -> None:
    net, x = network("cnn", 0), images(8)
    label = predicted(net, x)
    for norm in NORMS:
        got = certify(net, x, label, norm)
        for i in range(len(x)):
            slow = bisection(net, x[i : i + 1], label[i : i + 1], norm)
            assert slow * 0.97 <= got[i] <= slow * 1.001


def bisection(net: nn.Sequential, x: Tensor, label: Tensor, norm: str) -> float:
    q = a_query(net, x, label, norm)
    bounds = _bounds.Bounds(_compat.load_auto_lirpa(), q, _bounds.Search("CROWN"))
    low, high = 0.0, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        with torch.no_grad():
            verified = bounds.margin(torch.tensor([middle]), torch.tensor([0]), "CROWN") > 0
        low, high = (middle, high) if verified else (low, middle)
    return low


@pytest.mark.parametrize("norm", NORMS)
def test_tighter_bounds_give_larger_radii(norm: str) -> None:
    net, x = network("cnn", 5, width=8), images(16)
    label = predicted(net, x)
    mean = {
        key: CERTIFICATES[key](a_query(net, x, label, norm)).lower.mean()
        for key in ("ibp", "crown_ibp", "crown", "alpha_crown")
    }
    assert mean["ibp"] < mean["crown_ibp"] < mean["crown"] < mean["alpha_crown"]


def test_best_slope_counts_per_image() -> None:
    net, x = network("cnn", 6, width=8), images(12)
    label = predicted(net, x)
    every = ("adaptive", "same-slope", "zero-lb", "one-lb")
    single = torch.stack([certify(net, x, label, "linf", slopes=(slope,)) for slope in every])
    assert (certify(net, x, label, "linf", slopes=every) >= 0.97 * single.amax(0)).all()
    assert (single[0] != single[2]).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_allowance_covers_float32(norm: Norm) -> None:
    net, x = network("cnn", 7, width=16), images(16)
    library = _compat.load_auto_lirpa()
    label = predicted(net, x)
    allowance = logit_allowance(net, x, 0.1, norm)
    margins = []
    for dtype in (torch.float32, torch.float64):
        n, p = net.to(dtype), x.to(dtype)
        bounds = _bounds.Bounds(library, a_query(n, p, label, norm), _bounds.Search("CROWN"))
        epsilon = torch.full((len(x),), 0.05 if norm == "linf" else 0.3, dtype=dtype)
        with torch.no_grad():
            margins.append(bounds.margin(epsilon, torch.arange(len(x)), "CROWN").double())
    assert ((margins[0] - margins[1]).abs() <= allowance.amin(1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_patches_give_what_whole_matrices_give(norm: str) -> None:
    net, x = network("cnn", 6), images(8)
    label = predicted(net, x)
    patches, matrix = (certify(net, x, label, norm, conv_mode=mode) for mode in ("patches", "matrix"))
    assert (patches > 0).all()
    assert torch.allclose(patches, matrix, rtol=1e-4)


def test_nan_never_verifies() -> None:
    net, x = network("cnn", 0), images(4)
    label = predicted(net, x)
    with torch.no_grad():
        net[5 if isinstance(net[5], nn.Linear) else 6].weight[0, 0] = torch.nan
    for norm in NORMS:
        assert (certify(net, x, label, norm) == 0).all()


def test_wrong_predictions_have_radius_zero() -> None:
    net, x = network("mlp", 0), images(8)
    label = predicted(net, x)
    wrong = torch.arange(8) % 2 == 0
    radius = certify(net, x, torch.where(wrong, (label + 1) % 5, label), "linf")
    assert ((radius == 0) == wrong).all()


def test_attack_distances_only_choose_the_start() -> None:
    net, x = network("cnn", 0), images(8)
    label = predicted(net, x)
    plain = certify(net, x, label, "linf")
    false = plain / 4  # wrong distances, below the certified radii, must not hide the contradiction
    false[0] = torch.inf
    assert torch.allclose(certify(net, x, label, "linf", upper=false), plain, rtol=0.03)


def test_constant_network_is_certified_up_to_the_box() -> None:
    net, x = network("mlp", 0), images(3)
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.arange(5.0))
    assert (certify(net, x, torch.full((3,), 4), "linf") > 0.99).all()
    assert (certify(net, x, torch.full((3,), 4), "l2") > 7.9).all()


def test_unknown_method() -> None:
    net, x = network("mlp", 0), images(2)
    with pytest.raises(MarginbenchError, match="CROWN-IBP"):
        certify(net, x, predicted(net, x), "linf", method="crown")


def test_nothing_outside_changes(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = network("cnn", 0), images(3)
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    filters, rng = warnings.filters[:], torch.get_rng_state()
    certify(net, x, predicted(net, x), "l2", conv_mode="patches")
    assert capsys.readouterr() == ("", "")
    assert warnings.filters == filters and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert getattr(sys.modules.get("numpy.lib.arraysetops"), "isin", np.isin) is np.isin


def test_the_search_starts_from_crown_where_intervals_know_nothing() -> None:
    """In deep networks CROWN-IBP is hopeless even next to the image; its slope would be off by orders of magnitude."""
    asked: list[tuple[str, list[int]]] = []

    class Deep:
        def margin(self, epsilon: Tensor, index: Tensor, method: str) -> Tensor:
            asked.append((method, index.tolist()))
            slope = torch.tensor([1e9, 50.0, torch.inf]) if method == "CROWN-IBP" else torch.tensor([40.0, 40.0, 20.0])
            return 2 - slope[index] * epsilon

    linear = crown._linear_radius(Deep(), torch.full((3,), 2.0), "CROWN", 1.0)  # type: ignore[arg-type]
    assert torch.allclose(linear, torch.tensor([0.05, 0.05, 0.1]), rtol=1e-2)
    assert asked == [("CROWN-IBP", [0, 1, 2]), ("CROWN", [0, 1, 2])]


def test_a_few_images_tell_how_far_intervals_fall_too_fast() -> None:
    asked: list[tuple[str, int]] = []

    class InL2:
        def margin(self, epsilon: Tensor, index: Tensor, method: str) -> Tensor:
            asked.append((method, len(index)))
            return 2 - (30.0 if method == "CROWN-IBP" else 3.0) * (1 + index / 100) * epsilon

    linear = crown._linear_radius(InL2(), torch.full((50,), 2.0), "CROWN", 1.0)  # type: ignore[arg-type]
    assert torch.allclose(linear, 2 / (3 * (1 + torch.arange(50) / 100)), rtol=1e-2)
    assert asked == [("CROWN-IBP", 50), ("CROWN", crown.FEW)]
