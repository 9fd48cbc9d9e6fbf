"""Scalar functions lie between their lines, and within their range; a wrong fact about one is seen."""

from dataclasses import replace

import pytest
import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates._curves import CURVES, Curve, _derivative, bounding_lines, find_range
from marginbench.benchmarks.certificates.scan import CERTIFICATES

PARAMETERS: dict[str, list[tuple[float, ...]]] = {
    "gelu": [(0.0,), (1.0,)],
    "elu": [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.6732632, 1.0507010, 1.0), (0.5, 1.0, 2.0), (-1.0, 1.0, 1.0)],
    "hardtanh": [(-1.0, 1.0), (0.0, 6.0), (-torch.inf, 0.5), (0.2, torch.inf)],
    "leaky_relu": [(0.01,), (0.0,), (1.0,), (-0.5,), (2.0,)],
    "softplus": [(1.0, 20.0), (5.0, 20.0), (1.0, 1.0)],
}
CASES = [(kind, values) for kind in CURVES for values in PARAMETERS.get(kind, [()])]


def intervals(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of all widths from 0 to 40, many of them around 0."""
    stream = torch.Generator().manual_seed(0)
    middle = torch.randn(2000, generator=stream) * torch.logspace(-3, 1, 2000)
    width = 10 ** (torch.rand(2000, generator=stream) * 6 - 4.5)
    width[::7] = 0
    return ((middle - width / 2).to(dtype), (middle + width / 2).to(dtype))


def overshoot(curve: Curve, dtype: torch.dtype = torch.float32) -> float:
    """How far the function, in float64, leaves its lines and its range at most."""
    low, high = intervals(dtype)
    lines, (least, most) = bounding_lines(curve, low, high), find_range(curve, low, high)
    t = low.double() + (high - low).double() * torch.linspace(0, 1, 801, dtype=torch.float64)[:, None]
    t = torch.cat([t, *(low.double().clamp(min=corner).minimum(high.double())[None] for corner in curve.corners)])
    y = curve.function(t)
    slope, lower, steep, upper, least, most = (part.double() for part in (*lines, least, most))
    gaps = slope * t + lower - y, y - steep * t - upper, least - y, y - most
    return max(float(gap.amax()) for gap in gaps)


@pytest.mark.parametrize(("kind", "values"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_curve_lies_between_its_lines(kind: str, values: tuple[float, ...], dtype: torch.dtype) -> None:
    assert overshoot(CURVES[kind](*values), dtype) <= 0


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_no_curve_is_steeper_than_it_says(kind: str, values: tuple[float, ...]) -> None:
    curve = CURVES[kind](*values)
    slopes = _derivative(curve, torch.linspace(-30, 30, 200_001, dtype=torch.float64)).abs()
    unbounded = kind == "square" or curve.error > 1e-3  # softplus jumps where torch takes x itself too early
    assert curve.steep == torch.inf if unbounded else slopes.max() / curve.steep <= 1 + 1e-6
    assert unbounded or curve.steep <= 1.001 * slopes.max()


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_lines_are_tight(kind: str, values: tuple[float, ...]) -> None:
    """At single points they meet the curve; elsewhere their gap is at most that of the curve's own range, and more."""
    curve = CURVES[kind](*values)
    low, high = intervals(torch.float64)
    lines = bounding_lines(curve, low, high)
    gap = (lines.upper_slope - lines.lower_slope) * (low + high) / 2 + lines.upper - lines.lower
    assert (gap[::7] <= 1e-12 * (1 + low[::7].abs()) + 3 * curve.error).all()
    least, most = find_range(curve, low, high)
    allowance = 1e-6 + 0.02 * (high - low) ** 2 + 4 * curve.error
    assert (gap <= 1.5 * (most - least) + allowance).all()


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_bend_bounds_the_second_derivative(kind: str, values: tuple[float, ...]) -> None:
    curve = CURVES[kind](*values)
    t = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    h = 1e-4
    smooth = torch.ones_like(t, dtype=torch.bool)
    for corner in (*curve.corners, *([values[1] / values[0]] if kind == "softplus" else [])):
        smooth &= (t - corner).abs() > 2 * h
    second = (curve.function(t + h) - 2 * curve.function(t) + curve.function(t - h)) / h**2
    assert second[smooth].abs().amax() <= curve.bend * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("gelu", {"bend": 0.0}),
        ("silu", {"bend": 0.0}),
        ("silu", {"turns": ()}),
        ("gelu", {"turns": (0.0,)}),
        ("hardtanh", {"corners": ()}),
        ("leaky_relu", {"corners": (0.5,)}),
        ("softplus", {"error": 0.0}),
    ],
)
def test_a_wrong_fact_is_seen(kind: str, wrong: dict[str, object]) -> None:
    """Mutants."""
    curve = CURVES[kind](*PARAMETERS.get(kind, [()])[-1])
    assert overshoot(replace(curve, **wrong)) > 1e-7  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_rounding_chooses_no_lines(kind: str, values: tuple[float, ...]) -> None:
    """Where two slopes are as good, as over [-1, 1], float32 and float64 take the same."""
    curve = CURVES[kind](*values)
    width = torch.logspace(-1, 1, 200, dtype=torch.float64)
    slopes = [
        bounding_lines(curve, (-width).to(dtype), width.to(dtype)).lower_slope.double()
        for dtype in (torch.float32, torch.float64)
    ]
    assert (slopes[0] - slopes[1]).abs().amax() < 1e-3


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 2.0), (20.0, 2.0)])
def test_a_softplus_that_jumps_is_a_reason(beta: float, threshold: float) -> None:
    """No bound that allows for the jump is tight at an image; torch's own threshold of 20 jumps by 2e-9."""
    torch.manual_seed(0)
    answers = []
    for activation in (nn.Softplus(beta, threshold), nn.Softplus()):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), activation, nn.Linear(8, 3)).eval().requires_grad_(False)
        x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        answers.append(CERTIFICATES["crown"](a_query(net, x, net(x).argmax(1), "linf")))
    assert answers[0].lower is None
    assert answers[0].reason == "softplus with a jump at its threshold of 2 has no sound bound here"
    assert answers[1].lower is not None and bool((answers[1].lower > 0).all())
