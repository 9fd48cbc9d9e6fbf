"""Bounds on ReLU networks over a ball of inputs: intervals, and linear bounds pulled back layer by layer.

A network is a list of blocks of affine maps with a ReLU between one block and the next; the last layer, the linear
head, is kept apart, so that a specification (differences of its rows) can be merged into it. Vectors are flat.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods._lipschitz import (
    LOGIT_ROUNDING,
    RADIUS_ROUNDING,
    flat,
    is_plain,
    normalises,
    pair,
    zero_padded,
)
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import Net, Norm, NotApplicable, Radii

DENSE = 2**20  # convolutions with at most so many entries are written out as matrices
TINY = 1e-12
Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Affine:
    """x [..., n] to [..., m]; the weight is a diagonal [n], a matrix [m, n] or a kernel [O, C, kh, kw]."""

    weight: Tensor
    bias: Tensor  # [m]
    convolution: nn.Conv2d | None = None  # its stride and padding count
    inputs: tuple[int, ...] = ()  # shapes without the batch
    outputs: tuple[int, ...] = ()

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight`, in place of the map's own, times x [..., n]; without the bias."""
        if self.convolution is None:
            return x * weight if weight.dim() == 1 else F.linear(x, weight)
        stride, padding = self.convolution.stride, self.convolution.padding
        images = F.conv2d(x.reshape(-1, *self.inputs), weight, None, stride, padding)
        return images.reshape(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, self.weight) + self.bias

    def pull(self, a: Tensor) -> Tensor:
        """Rows a [..., m] on the outputs to rows [..., n] on the inputs."""
        if self.convolution is None:
            return a * self.weight if self.weight.dim() == 1 else a @ self.weight
        stride, padding = pair(self.convolution.stride), pair(self.convolution.padding)  # type: ignore[arg-type]
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
        inputs = math.prod(shape)
        if inputs * math.prod(outputs) > DENSE:
            return Affine(weight, bias, layer, shape, outputs), outputs
        basis = torch.eye(inputs, dtype=weight.dtype, device=weight.device).view(inputs, *shape)
        matrix = F.conv2d(basis, weight, None, layer.stride, layer.padding).flatten(1).T
        return Affine(matrix, bias), outputs
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

    def range(self, rows: Tensor) -> Interval:
        """Centre and radius of the values of rows [B or 1, S, n]: [B, S] each."""
        if self.norm == "l2":
            return _times(rows, self.x), self.epsilon * torch.linalg.vector_norm(rows, dim=-1)
        low, high = self.box()
        return _times(rows, (low + high) / 2), _times(rows.abs(), (high - low) / 2)


def _times(rows: Tensor, x: Tensor) -> Tensor:
    """Rows [B or 1, S, n] on x [B, n]."""
    return x @ rows[0].T if len(rows) == 1 else (rows @ x[:, :, None])[:, :, 0]


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
    return _times(rows, centre) - _times(rows.abs(), radius) + constants


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


def linear_margins(
    blocks: Blocks, relaxations: Sequence[Relaxation], ball: Ball, rows: Tensor, constants: Tensor
) -> Tensor:
    """Lower bounds [B, S] of rows [B, S, m] times the last block's outputs plus constants, pulled back to the input."""
    for block, relaxation in zip(reversed(blocks), (*reversed(relaxations), None), strict=True):
        for affine in reversed(block):
            constants = constants + rows @ affine.bias
            rows = affine.pull(rows)
        if relaxation is not None:
            negative = rows.clamp_max(0)
            constants = constants + _times(negative, relaxation.intercept)
            rows = (rows - negative) * relaxation.lower[:, None] + negative * relaxation.upper[:, None]
    centre, radius = ball.range(rows)
    return centre - radius + constants


def parallel_bounds(blocks: Blocks, ball: Ball) -> list[Relaxation]:
    """The relaxations of all ReLUs, each from bounds through all layers before it; parallel lines give both at once."""
    relaxations: list[Relaxation] = []
    for depth in range(1, len(blocks)):
        size = len(blocks[depth - 1][-1].bias)
        rows = torch.eye(size, dtype=ball.x.dtype, device=ball.x.device)[None]
        low = high = ball.x.new_zeros(1, size)
        for block, relaxation in zip(reversed(blocks[:depth]), (*reversed(relaxations), None), strict=True):
            for affine in reversed(block):
                shift = rows @ affine.bias
                low, high = low + shift, high + shift
                rows = affine.pull(rows)
            if relaxation is not None:
                positive = rows.relu()
                high = high + _times(positive, relaxation.intercept)
                low = low + _times(rows - positive, relaxation.intercept)
                rows = rows * relaxation.upper[:, None]
        centre, radius = ball.range(rows)
        relaxations.append(parallel((centre - radius + low, centre + radius + high)))
    return relaxations


def ramp(progress: float, start: float, end: float) -> float:
    """0 until `start`, 1 from `end` on, linear between them; all are shares of the training."""
    return min(max(progress - start, 0) / max(end - start, TINY), 1.0)


Margins = Callable[[Blocks, Ball, Tensor, Tensor], Tensor]


def certified_radii(net: Net, x: Tensor, norm: Norm, margins: Margins, halvings: int = 20) -> Radii | NotApplicable:
    """The largest radii found at which `margins` proves that the predicted class cannot change.

    Bounds are computed in float64; the gap is lowered by 1e-5 of the largest logit, since the network computes its
    logits in float32. A bound at one radius holds for all smaller ones, so that the search needs no monotony.

    Args:
        x: [B, C, H, W] images in [0, 1].
        margins: (blocks, ball, rows, constants) to lower bounds [B, K] of z_p - z_j, p the predicted class.
        halvings: of the interval from 0 to the diameter of the box.
    """
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        return NotApplicable("the weights are not finite")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            blocks = blocks_of(net, tuple(x.shape[1:]), torch.float64)
        except MarginbenchError as error:
            return NotApplicable(str(error))
        logits = net(x)
        predicted = logits.argmax(1)
        slack = LOGIT_ROUNDING * logits.double().abs().amax(1, keepdim=True)
        rows, constants = specification(net, predicted, torch.float64)
        itself = F.one_hot(predicted, logits.shape[1]).bool()
        pixels = x.flatten(1).double()

        def verified(radius: Tensor) -> Tensor:
            lower = margins(blocks, Ball(pixels, radius[:, None], norm), rows, constants - slack)
            return (itself | (lower > 0)).all(1)

        low = torch.zeros_like(pixels[:, 0])
        high = torch.full_like(low, 1.0 if norm == "linf" else pixels.shape[1] ** 0.5)
        for _ in range(halvings):
            middle = (low + high) / 2
            proved = verified(middle)
            low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
        return Radii((low * (1 - RADIUS_ROUNDING)).to(x.dtype))
