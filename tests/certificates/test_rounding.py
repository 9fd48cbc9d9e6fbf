"""What float32 may move is measured, and taken off the bounds; units of the logits do not count."""

import pytest
import torch
from certificate_support import SHAPE, certify, images, network, predicted
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _soundness, crown
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.estimator import Answer
from marginbench.methods import NORMS, Norm, logit_margin
from marginbench.methods.maths import rounding


def with_offset(offset: float) -> nn.Sequential:
    """Hidden units far above 0, so that it is linear, and a last layer in which the offset cancels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)).requires_grad_(False)
    net[1].weight *= 2
    net[1].bias += offset
    net[3].bias -= (offset * net[3].weight.double().sum(1)).float()
    return net.eval()


def broken(net: nn.Sequential, x: Tensor, label: Tensor, radius: Tensor) -> int:
    """Images that change class at the corner of their balls that is worst for the linear network."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(logit_margin(net(x), label).sum(), x)
    corner = (x - radius.view(-1, 1, 1, 1) * gradient.sign()).clamp(0, 1)
    return int(((predicted(net, corner) != label) & (radius > 0)).sum())


def test_an_offset_that_cancels_breaks_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = with_offset(1e4), images(200)
    label = predicted(net, x)
    radius = certify(net, x, label, "linf")
    assert (radius > 0).sum() > 20 and broken(net, x, label, radius) == 0

    def assumed(net: nn.Module, x: Tensor, epsilon: float, norm: Norm) -> Tensor:
        logits: Tensor = net(x)
        return 1e-5 * logits.abs().amax(1, keepdim=True).expand_as(logits)

    monkeypatch.setattr(crown, "logit_allowance", assumed)
    monkeypatch.setattr(crown, "SAFETY", 0)
    monkeypatch.setattr(crown, "check_at_images", lambda *_: 0.0)
    assert broken(net, x, label, certify(net, x, label, "linf")) > 0


def test_the_allowance_covers_random_points() -> None:
    net, x = with_offset(1e5), images(50)
    allowance = rounding.logit_allowance(net, x, 0.1, "linf")
    with torch.no_grad():
        size = net(x).abs().amax(1)
    points = [rounding.corner(x, 0.1, "linf", seed) for seed in range(1, 20)]
    error = rounding.gap_error(net, points)
    assert 1e-5 * size.max() < error <= allowance.min()


def test_all_gaps_below_rounding_is_a_reason() -> None:
    net, x = with_offset(1e8), images(20)
    found = certify(net, x, predicted(net, x), "linf")
    assert isinstance(found, Answer) and "rounding in float32" in found.reason
    lower = CERTIFICATES["lipschitz"](a_query(net, x, predicted(net, x), "l2")).lower
    assert lower is not None and (lower == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["crown", "ibp", "lipschitz"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_logits_do_not_count(name: str, unit: float, norm: Norm) -> None:
    net, x = network("mlp", 3), images(20)
    label = predicted(net, x)
    before = CERTIFICATES[name](a_query(net, x, label, norm)).lower
    with torch.no_grad():
        net[-1].weight *= unit
        net[-1].bias *= unit
    after = CERTIFICATES[name](a_query(net, x, label, norm)).lower
    assert before is not None and after is not None and (before > 0).all()
    assert (after > 0.8 * before).all() and torch.isclose(before.mean(), after.mean(), rtol=0.02)  # another path


def test_units_of_the_logits_do_not_count_in_exact_margins() -> None:
    net, x = network("mlp", 3), images(2)
    label = predicted(net, x)
    before = CERTIFICATES["milp"](a_query(net, x, label, "linf")).lower
    with torch.no_grad():
        net[-1].weight *= 1e-6
        net[-1].bias *= 1e-6
    after = CERTIFICATES["milp"](a_query(net, x, label, "linf")).lower
    assert before is not None and after is not None and (before > 0).all()
    assert torch.allclose(before, after, rtol=5e-3)


def test_corners_lie_in_the_ball_and_the_box() -> None:
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    for norm, order in (("linf", torch.inf), ("l2", 2)):
        step = (rounding.corner(x, 0.2, norm) - x).flatten(1)  # type: ignore[arg-type]
        assert (torch.linalg.vector_norm(step, ord=order, dim=1) <= 0.2 + 1e-6).all()
        assert ((x + step.view_as(x)) >= 0).all() and ((x + step.view_as(x)) <= 1).all()


def test_a_network_without_float64_is_allowed_the_least() -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("float32 only")
            return x.flatten(1)

    x = images(3)
    assert torch.equal(rounding.logit_allowance(Single(), x, 0.1, "linf")[:, 0], 1e-5 * x.flatten(1).amax(1))


@pytest.mark.parametrize("conv_mode", ["dense", "patches"])
def test_rounding_is_told_from_wrong_bounds(conv_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network("cnn", 3), images(6)
    label = predicted(net, x)
    monkeypatch.setattr(_soundness, "ROUNDINGS", -1)  # whatever float32 says
    assert (certify(net, x, label, "linf", conv_mode=conv_mode) > 0).any()


def test_a_class_that_is_masked_is_a_reason() -> None:
    net, x = network("mlp", 3), images(6)
    label = predicted(net, x)
    with torch.no_grad():
        net[-1].bias.fill_(-torch.inf)
        net[-1].bias[0] = 0
    found = certify(net, x, torch.zeros_like(label), "linf")
    assert isinstance(found, Answer) and "finite" in found.reason
