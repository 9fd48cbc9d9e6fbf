"""Bounds on ReLU networks over a ball of inputs: intervals, and linear bounds pulled back layer by layer.

A network is a path: blocks of affine maps and residual sums, with a ReLU between one block and the next. The last
layer, the linear head, is kept apart, so that a specification (differences of its rows) can be merged into it. Vectors
are flat.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods.facts import Norm

TINY = 1e-12
Interval = tuple[Tensor, Tensor]
Power = Literal[1, 2]


@dataclass(frozen=True)
class Affine:
    """x [..., n] to [..., m]; the weight is a diagonal [n], a matrix [m, n] or a kernel [O, C, kh, kw]."""

    weight: Tensor
    bias: Tensor  # [m]
    geometry: tuple[tuple[int, int], tuple[int, int]] | None = None  # stride and padding of a kernel
    inputs: tuple[int, ...] = ()  # shapes without the batch
    outputs: tuple[int, ...] = ()
    reach: Tensor | None = None  # [n, s]: the outputs that each input reaches, if not all

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight`, in place of the map's own, times x [..., n]; without the bias."""
        if self.geometry is None:
            return x * weight if weight.dim() == 1 else F.linear(x, weight)
        images = F.conv2d(x.reshape(-1, *self.inputs), weight, None, *self.geometry)
        return images.reshape(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, self.weight) + self.bias

    @property
    def dense(self) -> bool:
        return self.geometry is None and self.weight.dim() == 2

    def pull(self, a: Tensor) -> Tensor:
        """Rows a [..., m] on the outputs to rows [..., n] on the inputs."""
        if self.geometry is None:
            return a * self.weight if self.weight.dim() == 1 else a @ self.weight
        stride, padding = self.geometry
        rest = [
            (n + 2 * p - k) % s
            for n, p, k, s in zip(self.inputs[1:], padding, self.weight.shape[2:], stride, strict=True)
        ]
        images = a.reshape(-1, *self.outputs)
        return F.conv_transpose2d(images, self.weight, None, stride, padding, rest).reshape(*a.shape[:-1], -1)


@dataclass(frozen=True)
class Sum:
    """The sum of two paths on the same input: a residual block."""

    paths: tuple["Path", "Path"]


Path = Sequence[Sequence[Affine | Sum]]
Blocks = list[list[Affine]]  # a path without sums


@dataclass(frozen=True)
class Ball:
    """The images within epsilon of x [B, n]: in the box [0, 1] for linf, and in all of R^n for l2."""

    x: Tensor
    epsilon: Tensor  # [B, 1] or [1, 1], in pixels
    norm: Norm

    def box(self) -> Interval:
        """The smallest box that holds the images of [0, 1]."""
        return (self.x - self.epsilon).clamp(0, 1), (self.x + self.epsilon).clamp(0, 1)

    def centre(self) -> Tensor:
        if self.norm == "l2":
            return self.x
        low, high = self.box()
        return (low + high) / 2

    def reach(self) -> Tensor:
        """How far each pixel can be from the centre: [B or 1, n]."""
        if self.norm == "l2":
            return self.epsilon
        low, high = self.box()
        return (high - low) / 2

    def range(self, rows: Tensor) -> Interval:
        """Centre and radius of the values of rows [B or 1, S, n]: [B, S] each."""
        centre = times(rows, self.centre())
        if self.norm == "l2":
            return centre, self.epsilon * torch.linalg.vector_norm(rows, dim=-1)
        return centre, power_times(rows, self.reach(), 1)


def times(rows: Tensor, x: Tensor) -> Tensor:
    """Rows [B or 1, S, n] on x [B, n]."""
    return x @ rows[0].T if len(rows) == 1 else (rows @ x[:, :, None])[:, :, 0]


def power_times(rows: Tensor, x: Tensor, power: Power) -> Tensor:
    """|rows|^power [B or 1, S, n] on x [B or 1, n]: [B, S]."""
    if len(rows) == 1:
        return times(_power(rows, power), x)
    product: Tensor = _PowerTimes.apply(rows, x, power)
    return product


def _power(rows: Tensor, power: Power) -> Tensor:
    return rows.abs() if power == 1 else rows.square()


class _PowerTimes(torch.autograd.Function):
    """The product, with a backward pass that allocates one tensor of the size of the rows instead of five."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, x: Tensor, power: Power) -> Tensor:
        ctx.save_for_backward(rows, x)
        ctx.power = power
        return times(_power(rows, power), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, x = ctx.saved_tensors
        to_rows = to_x = None
        if ctx.needs_input_grad[0]:
            to_rows = (rows.sgn() if ctx.power == 1 else 2 * rows).mul_(x[:, None]).mul_(grad[:, :, None])
        if ctx.needs_input_grad[1]:
            to_x = (grad[:, None] @ _power(rows, ctx.power))[:, 0].sum_to_size(x.shape)
        return to_rows, to_x, None


def interval_bounds(path: Path, box: Interval) -> tuple[list[Interval], Interval]:
    """Bounds [B, m] of every pre-activation, and of the features, over a box of images [B, n].

    The pre-activations are in the order of the path, in a sum those of its first path first, as in all lists here.
    """
    before: list[Interval] = []
    centre, radius = _follow(path, (box[0] + box[1]) / 2, (box[1] - box[0]) / 2, before)
    return before, (centre - radius, centre + radius)


def _follow(path: Path, centre: Tensor, radius: Tensor, before: list[Interval]) -> tuple[Tensor, Tensor]:
    """Centre and radius of the box behind the path; bounds in front of ReLUs are appended."""
    for depth, block in enumerate(path):
        if depth:
            before.append((centre - radius, centre + radius))
            low, high = before[-1][0].relu(), before[-1][1].relu()
            centre, radius = (low + high) / 2, (high - low) / 2
        for part in block:
            if isinstance(part, Affine):
                centre, radius = part.forward(centre), part.linear(radius, part.weight.abs())
            else:
                ends = [_follow(inner, centre, radius, before) for inner in part.paths]
                centre, radius = ends[0][0] + ends[1][0], ends[0][1] + ends[1][1]
    return centre, radius


def interval_margins(features: Interval, rows: Tensor, constants: Tensor) -> Tensor:
    """Lower bounds [B, K] of rows [B, K, d] times the features plus constants."""
    low, high = features
    centre, radius = (low + high) / 2, (high - low) / 2
    return times(rows, centre) - times(rows.abs(), radius) + constants


@dataclass(frozen=True)
class Relaxation:
    """lower x <= ReLU(x) <= upper x + intercept for x in [l, u]; all [B, m]."""

    lower: Tensor
    upper: Tensor
    intercept: Tensor


def parallel(bounds: Interval) -> Relaxation:
    """Both lines with slope u / (u - l) (Wong and Kolter, ICML 2018)."""
    up, down = bounds[1].relu(), (-bounds[0]).relu()
    slope = torch.where(bounds[0] >= 0, 1, up / (up + down).clamp_min(TINY))
    return Relaxation(slope, slope, slope * down)


def adaptive(bounds: Interval) -> Relaxation:
    """Lower slope 1 where u > -l, else 0: the smaller area (Zhang et al., NeurIPS 2018)."""
    chord = parallel(bounds)
    low, high = bounds
    lower = torch.where(low >= 0, 1, torch.where(high > -low, 1, 0) * (high > 0)).to(low.dtype)
    return Relaxation(lower, chord.upper, chord.intercept)


class _Relaxed(torch.autograd.Function):
    """Rows [B, S, m] before the ReLUs with the line that counts for their sign, and its constants [B, S].

    With fewer tensors than autograd would need for the same formula: memory traffic is what takes the time.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lower: Tensor, upper: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, lower, upper, intercept)
        negative = rows.clamp_max(0)
        relaxed = (rows * lower[:, None]).addcmul_(negative, (upper - lower)[:, None])
        return relaxed, times(negative, intercept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        rows, lower, upper, intercept = ctx.saved_tensors
        negative = rows.clamp_max(0)
        to_intercept = (shift[:, None] @ negative)[:, 0]
        to_upper = (grad * negative).sum(1)
        to_lower = (grad * rows).sum(1) - to_upper
        below = negative.sign_().neg_()
        to_rows = (grad * (upper - lower)[:, None]).addcmul_(shift[:, :, None], intercept[:, None])
        to_rows.mul_(below).addcmul_(grad, lower[:, None])
        return to_rows, to_lower, to_upper, to_intercept


def linear_margins(
    path: Path, relaxations: Sequence[Relaxation], ball: Ball, rows: Tensor, constants: Tensor
) -> Tensor:
    """Lower bounds [B, S] of rows [B, S, m] times the path's outputs plus constants, pulled back to the input."""
    remaining = iter(reversed(relaxations))
    rows, constants = _pull(path, remaining, rows, constants)
    if next(remaining, None) is not None:
        raise ValueError("there are more relaxations than ReLUs")
    centre, radius = ball.range(rows)
    return centre - radius + constants


def _pull(path: Path, relaxations: Iterator[Relaxation], rows: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and constants in front of the path; relaxations come from its end."""
    for depth in range(len(path) - 1, -1, -1):
        for part in reversed(path[depth]):
            if isinstance(part, Affine):
                constants = constants + rows @ part.bias
                rows = part.pull(rows)
            else:
                second, constants = _pull(part.paths[1], relaxations, rows, constants)
                first, constants = _pull(part.paths[0], relaxations, rows, constants)
                rows = first + second
        if depth:
            line = next(relaxations)
            rows, shift = _Relaxed.apply(rows, line.lower, line.upper, line.intercept)
            constants = constants + shift
    return rows, constants
