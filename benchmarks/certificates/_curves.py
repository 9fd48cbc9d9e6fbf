"""Scalar functions of which enough is known for sound linear bounds: curvature, corners and turning points."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CLEARLY = 1e-4  # relative; what is no better than this stays second, so that rounding never chooses
LEAST_JUMP = 1e-8  # far below what float32 rounds away
CELLS = 32  # of the grid on which the distance of a function from a line is measured


@dataclass(frozen=True)
class Curve:
    """A continuous function f of one number."""

    function: Callable[[Tensor], Tensor]
    bend: float  # |f''| is at most this, except at the corners
    steep: float  # |f'| is at most this
    corners: tuple[float, ...] = ()  # where f' or f'' jumps
    turns: tuple[float, ...] = ()  # between these f is monotone
    error: float = 0.0  # of the function from the f of which all this is true


def gelu(tanh: float) -> Curve:
    """x Phi(x), or its approximation by tanh (Hendrycks and Gimpel, arXiv 1606.08415)."""
    if tanh:
        return Curve(lambda x: F.gelu(x, approximate="tanh"), 0.8, 1.129, turns=(-0.7524614220710162,))
    return Curve(F.gelu, 0.8, 1.129, turns=(-0.7517915246935645,))


def elu(alpha: float, scale: float, inner: float) -> Curve:
    """scale x above 0, scale alpha (exp(inner x) - 1) below: ELU, SELU and CELU."""

    def function(x: Tensor) -> Tensor:
        below: Tensor = scale * alpha * torch.expm1(inner * x.clamp(max=0))
        return torch.where(x > 0, scale * x, below)

    steep = max(abs(scale), abs(scale * alpha * inner))
    return Curve(function, abs(scale * alpha) * inner**2, steep, (0.0,), (0.0,))


def hardtanh(low: float, high: float) -> Curve:
    """Also ReLU6 and `clamp`, with an infinite limit where there is none."""
    limits = tuple(limit for limit in (low, high) if math.isfinite(limit))
    return Curve(lambda x: x.clamp(low, high), 0.0, 1.0, limits, limits)


def leaky_relu(slope: float) -> Curve:
    """Any slope below 0."""
    return Curve(lambda x: torch.where(x > 0, x, slope * x), 0.0, max(1.0, abs(slope)), (0.0,), (0.0,))


def softplus(beta: float, threshold: float) -> Curve:
    """log(1 + exp(beta x)) / beta; torch takes x itself above a threshold, where a small jump remains."""
    jump = math.log1p(math.exp(-threshold)) / beta
    steep = 1.0 if jump < LEAST_JUMP else math.inf
    return Curve(lambda x: F.softplus(x, beta, threshold), beta / 4, steep, error=jump)


CURVES: dict[str, Callable[..., Curve]] = {
    "gelu": gelu,
    "elu": elu,
    "hardtanh": hardtanh,
    "leaky_relu": leaky_relu,
    "softplus": softplus,
    "silu": lambda: Curve(F.silu, 0.5, 1.1, turns=(-1.2784645427610738,)),
    "mish": lambda: Curve(F.mish, 0.65, 1.089, turns=(-1.1924312145154954,)),
    "tanh": lambda: Curve(torch.tanh, 0.77, 1.0),
    "sigmoid": lambda: Curve(torch.sigmoid, 0.0963, 0.25),
    "hardswish": lambda: Curve(F.hardswish, 0.3334, 1.5, (-3.0, 3.0), (-3.0, -1.5)),
    "hardsigmoid": lambda: Curve(F.hardsigmoid, 0.0, 1 / 6, (-3.0, 3.0)),
    "square": lambda: Curve(torch.square, 2.0, math.inf, turns=(0.0,)),
    "abs": lambda: Curve(torch.abs, 0.0, 1.0, (0.0,), (0.0,)),
}


def find_range(curve: Curve, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and greatest value of f between low and high, elementwise."""
    points = [low, high, *(low.clamp(min=turn).minimum(high) for turn in curve.turns)]
    values = torch.stack([curve.function(point) for point in points])
    size = torch.maximum(low.abs(), high.abs())
    allowance = curve.error + 4 * torch.finfo(low.dtype).eps * (values.abs().amax(0) + size)
    return values.amin(0) - allowance, values.amax(0) + allowance


class Lines(NamedTuple):
    """lower_slope x + lower <= f(x) <= upper_slope x + upper between the limits, elementwise."""

    lower_slope: Tensor
    lower: Tensor
    upper_slope: Tensor
    upper: Tensor


@torch.no_grad()
def bounding_lines(curve: Curve, low: Tensor, high: Tensor) -> Lines:
    """Of the chord and some tangents those that leave the least area.

    g(x) = f(x) - slope x is known on a grid and at the corners. Between two of these points, h apart, it is within
    bend h^2 / 8 of their chord. So the extremes of g are those of the points, up to that and to rounding.
    """
    width = high - low
    grid = [low + width * (i / CELLS) for i in range(CELLS)] + [high]
    corners = [low.clamp(min=corner).minimum(high) for corner in curve.corners]
    values = [curve.function(point) for point in grid]
    at_corners = [curve.function(point) for point in corners]
    middle, size = (low + high) / 2, torch.maximum(low.abs(), high.abs())
    chord = (values[-1] - values[0]) / width
    tangents = [_derivative(curve, point) for point in (middle, low, high)]
    eps = torch.finfo(low.dtype).eps
    slopes = [torch.where(width > 1e3 * eps * size, chord, tangents[0]), *tangents]
    steepest = 1 + torch.stack(slopes).abs().amax(0)
    largest = torch.stack([value.abs() for value in (*values, *at_corners)]).amax(0)
    slack = curve.bend * (width / CELLS) ** 2 / 8 + curve.error + 4 * eps * (largest + steepest * size)
    total_size = len(grid) * (steepest * width + slack)
    best: list[Tensor] | None = None
    for slope in slopes:
        least, most, total = (torch.full_like(low, start) for start in (torch.inf, -torch.inf, 0.0))
        for point, value in zip(grid, values, strict=True):
            g = value - slope * point
            least, most, total = least.minimum(g), most.maximum(g), total + g
        for point, value in zip(corners, at_corners, strict=True):
            g = value - slope * point
            least, most = least.minimum(g), most.maximum(g)
        below, above = total - len(grid) * least, len(grid) * most - total
        if best is None:
            best = [slope, least, below, slope, most, above]
            continue
        for start, gap in ((0, below), (3, above)):
            new = (slope, least, below) if start == 0 else (slope, most, above)
            better = gap < best[start + 2] - CLEARLY * total_size
            best[start : start + 3] = [torch.where(better, a, b) for a, b in zip(new, best[start:], strict=False)]
    assert best is not None
    return Lines(best[0], best[1] - slack, best[3], best[4] + slack)


def _derivative(curve: Curve, x: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(curve.function(point).sum(), point)
    return slope
