"""Bounds on ReLU networks over a ball of inputs: intervals, and linear bounds pulled back layer by layer.

A network is a list of blocks of affine maps with a ReLU between one block and the next; the last layer, the linear
head, is kept apart, so that a specification (differences of its rows) can be merged into it. Vectors are flat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods._lipschitz import (
    flat,
    is_plain,
    normalises,
    pair,
    zero_padded,
)
from marginbench.methods._operator_norm import convolution_matrix, reached_outputs
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import Net, Norm

DENSE = 2**20  # convolutions with at most so many entries are written out as matrices
TINY = 1e-12
Interval = tuple[Tensor, Tensor]
Power = Literal[1, 2]


@dataclass(frozen=True)
class Affine:
    """x [..., n] to [..., m]; the weight is a diagonal [n], a matrix [m, n] or a kernel [O, C, kh, kw]."""

    weight: Tensor
    bias: Tensor  # [m]
    convolution: nn.Conv2d | None = None  # its stride and padding count
    inputs: tuple[int, ...] = ()  # shapes without the batch
    outputs: tuple[int, ...] = ()
    reach: Tensor | None = None  # [n, s]: the outputs that each input reaches, if not all

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight`, in place of the map's own, times x [..., n]; without the bias."""
        if self.convolution is None:
            return x * weight if weight.dim() == 1 else F.linear(x, weight)
        images = F.conv2d(x.reshape(-1, *self.inputs), weight, None, *self.geometry)
        return images.reshape(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, self.weight) + self.bias

    @property
    def dense(self) -> bool:
        return self.convolution is None and self.weight.dim() == 2

    @property
    def geometry(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Stride and padding of a convolution."""
        assert self.convolution is not None
        assert isinstance(self.convolution.padding, tuple)
        return pair(self.convolution.stride), pair(self.convolution.padding)

    def pull(self, a: Tensor) -> Tensor:
        """Rows a [..., m] on the outputs to rows [..., n] on the inputs."""
        if self.convolution is None:
            return a * self.weight if self.weight.dim() == 1 else a @ self.weight
        stride, padding = self.geometry
        rest = [
            (n + 2 * p - k) % s
            for n, p, k, s in zip(self.inputs[1:], padding, self.weight.shape[2:], stride, strict=True)
        ]
        images = a.reshape(-1, *self.outputs)
        return F.conv_transpose2d(images, self.weight, None, stride, padding, rest).reshape(*a.shape[:-1], -1)


Blocks = list[list[Affine]]


def blocks_of(net: Net, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Blocks:
    """The affine blocks of normalisation and body, differentiable in the weights; ReLUs stand between them.

    Args:
        shape: C, H, W of the images.
        dtype: of the weights; by default as they are.

    Raises:
        MarginbenchError: an unknown layer, or a head that is not linear; the message names it.
    """
    linear_head(net)
    blocks: Blocks = [[]]
    for layer in flat(net.normalise, net.body):
        if is_plain(layer, nn.ReLU):
            if blocks[-1]:  # a second ReLU in a row changes nothing, nor does one on pixels
                blocks.append([])
        elif is_plain(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            shape = (math.prod(shape),)
        elif not is_plain(layer, nn.Identity):
            affine, shape = _affine(layer, shape, dtype)
            blocks[-1].append(affine)
    return blocks


def linear_head(net: Net) -> nn.Linear:
    """The last layer.

    Raises:
        MarginbenchError: it is not linear.
    """
    if not is_plain(net.head, nn.Linear):
        raise MarginbenchError(f"no linear bounds are known for the head {net.head}")
    return net.head


def _affine(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype | None) -> tuple[Affine, tuple[int, ...]]:
    if normalises(layer):
        mean, std = (layer.get_buffer(name).to(dtype)[0].expand(shape).flatten() for name in ("mean", "std"))
        return Affine(1 / std, -mean / std), shape
    if is_plain(layer, nn.Linear):
        weight = layer.weight.to(dtype)
        return Affine(weight, _bias(layer.bias, weight)), (*shape[:-1], layer.out_features)
    if is_plain(layer, nn.Conv2d) and zero_padded(layer) and isinstance(layer.padding, tuple):
        weight = layer.weight.to(dtype)
        size = zip(shape[1:], layer.padding, layer.kernel_size, layer.stride, strict=True)
        outputs = (layer.out_channels, *((n + 2 * p - k) // s + 1 for n, p, k, s in size))
        bias = _bias(layer.bias, weight).repeat_interleave(math.prod(outputs[1:]))
        if math.prod(shape) * math.prod(outputs) > DENSE:
            return Affine(weight, bias, layer, shape, outputs), outputs
        geometry = ((shape[1], shape[2]), pair(layer.stride), pair(layer.padding))
        matrix = convolution_matrix(weight, *geometry)
        return Affine(matrix, bias, reach=reached_outputs(weight, *geometry)), outputs
    raise MarginbenchError(f"no linear bounds are known for the layer {layer}")


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[0]) if bias is None else bias.to(weight.dtype)


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
    """The product with a backward pass that makes one tensor of the size of the rows, in place of five."""

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


def specification(net: Net, y: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Rows [B, K, d] and constants [B, K] of z_y - z_j on the features; 0 for j = y."""
    head = linear_head(net)
    weight = head.weight.to(dtype)
    bias = _bias(head.bias, weight)
    return weight[y][:, None] - weight, bias[y][:, None] - bias


def interval_bounds(blocks: Blocks, box: Interval) -> tuple[list[Interval], Interval]:
    """Bounds [B, m] of every pre-activation, and of the features, over a box of images [B, n]."""
    low, high = box
    before: list[Interval] = []
    for depth, block in enumerate(blocks):
        if depth:
            low, high = low.relu(), high.relu()
        centre, radius = (low + high) / 2, (high - low) / 2
        for affine in block:
            centre, radius = affine.forward(centre), affine.linear(radius, affine.weight.abs())
        low, high = centre - radius, centre + radius
        before.append((low, high))
    return before[:-1], before[-1]


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

    With fewer tensors than autograd would make of the same formula: memory is what takes the time.
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
    blocks: Blocks, relaxations: Sequence[Relaxation], ball: Ball, rows: Tensor, constants: Tensor
) -> Tensor:
    """Lower bounds [B, S] of rows [B, S, m] times the last block's outputs plus constants, pulled back to the input."""
    for block, relaxation in zip(reversed(blocks), (*reversed(relaxations), None), strict=True):
        for affine in reversed(block):
            constants = constants + rows @ affine.bias
            rows = affine.pull(rows)
        if relaxation is not None:
            rows, shift = _Relaxed.apply(rows, relaxation.lower, relaxation.upper, relaxation.intercept)
            constants = constants + shift
    centre, radius = ball.range(rows)
    return centre - radius + constants


def ramp(progress: float, start: float, end: float) -> float:
    """0 until `start`, 1 from `end` on, linear between them; all are shares of the training."""
    return min(max(progress - start, 0) / max(end - start, TINY), 1.0)
