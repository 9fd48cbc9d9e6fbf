"""Maxima, max pooling and sorting."""

import math
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates._builder import Data, depthwise, per_channel
from marginbench.benchmarks.certificates._call import (
    Call,
    Two,
    affine,
    broadcast,
    convolve,
    on_top,
    rule,
    unknown,
)
from marginbench.benchmarks.certificates._layers import Largest, Reshape
from marginbench.benchmarks.certificates._linear_rules import KERNEL, matrix, two, undilated
from marginbench.benchmarks.certificates._place_rules import padded
from marginbench.benchmarks.certificates._record import Unbounded

SORTED = 16  # numbers at most: each takes another turn, and bounds become looser


@rule("maximum", "minimum")
def _maximum(call: Call) -> Data:
    return _larger(call, call.get(0), call.get(1))


def _larger(call: Call, a: Any, b: Any) -> Data:
    """max(a, b) = a + relu(b - a) and min(a, b) = a - relu(a - b), where either may be constant."""
    sign = 1.0 if "max" in call.name else -1.0
    if not (isinstance(a, Data) and isinstance(b, Data)):
        x, limit = (a, b) if isinstance(a, Data) else (b, a)
        above = call.builder.apply(nn.ReLU(), affine(call, x.shared, sign, -sign * limit.double()))
        return affine(call, above, sign, limit)
    a, b = (broadcast(call, part.shared).shared for part in (a, b))
    difference = call.builder.add(affine(call, b, sign, 0.0), affine(call, a, -sign, 0.0))
    rest = call.builder.apply(nn.ReLU(), difference).shared
    return call.builder.add(a, affine(call, rest, sign, 0.0))


@rule("max_pool2d_with_indices", "max_pool2d")
def _max_pool(call: Call) -> Data:
    kernel = two(call.get(1))
    stride = two(call.get(2) or kernel)
    padding, dilation = two(call.get(3)), two(call.get(4))
    return _largest(call, kernel, stride, padding, dilation)


@rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive(call: Call) -> Data:
    sizes = [(n, m) for n, m in zip(call.x.shape[-2:], call.shape[-2:], strict=True)]
    if any(n % m for n, m in sizes):
        if "max" in call.name:
            raise Unbounded(unknown("adaptive max pooling into windows of different sizes"))
        return matrix(call)
    kernel = (sizes[0][0] // sizes[0][1], sizes[1][0] // sizes[1][1])
    if "max" in call.name:
        return _largest(call, kernel, kernel, (0, 0), (1, 1))
    mean = torch.full(kernel, 1 / math.prod(kernel), dtype=torch.float64)
    return convolve(call.builder, call.x, depthwise(mean, call.x.shape[0], call.out[0]), stride=kernel)


@rule("amax", "amin", "max", "min")
def _extreme(call: Call) -> Data:
    """Over all pixels of a channel, or over neighbouring dimensions, as in `x.unflatten(1, (-1, 2)).amax(2)`."""
    stack, given = call.arguments[0][0], call.get(1)
    if isinstance(stack, Call):
        nets = on_top(call, stack)
        if not all(isinstance(net, Data) for net in nets):
            raise Unbounded(unknown(stack.name))
        found: Data = reduce(partial(_larger, call), nets)
        return found
    x = call.x
    dims = sorted(d % (len(x.shape) + 1) for d in (given if isinstance(given, list | tuple) else [given]))
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise Unbounded(unknown("a maximum over dimensions that are no neighbours"))
    if call.name == "amax" and len(x.shape) == 3 and dims == [2, 3]:
        found = _largest(call, (x.shape[1], x.shape[2]), (x.shape[1], x.shape[2]), (0, 0), (1, 1))
    else:
        parts = x.shape[: dims[0] - 1], x.shape[dims[0] - 1 : dims[-1]], x.shape[dims[-1] :]
        channels, count, rest = map(math.prod, parts)
        found = _signed(call, call.builder.apply(Reshape((channels * count, rest, 1)), x))
        found = _signed(call, _sum_of_largest(call, found, torch.ones(1, count, rest, 1)))
    return found if found.shape == call.shape else call.builder.apply(Reshape(tuple(call.shape)), found)


def _signed(call: Call, x: Data) -> Data:
    """-x before and after a maximum that stands for a minimum."""
    if "max" in call.name:
        return x
    zero = torch.zeros(x.shape[0], dtype=torch.float64, device=x.values[0].device)
    return call.builder.apply(per_channel(zero - 1, zero, x.values[0]), x)


def _largest(call: Call, kernel: Two, stride: Two, padding: Two, dilation: Two) -> Data:
    """Max pooling: the entries of each window as channels, the largest of them, their sum."""
    x = call.x
    if len(x.shape) != 3:
        raise Unbounded(unknown("max pooling of what is no image"))
    channels, like, count = x.shape[0], x.values[0], math.prod(kernel)
    # with ceil_mode windows reach beyond the padding
    reach = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(_pooled(call), stride, dilation, kernel, strict=True)]
    more = [max(0, r - n - 2 * p) for r, n, p in zip(reach, x.shape[1:], padding, strict=True)]
    inside = torch.ones(1, *x.shape[1:], dtype=like.dtype, device=like.device)
    if any(more):
        x = padded(call.builder, x, (padding[1], padding[1] + more[1], padding[0], padding[0] + more[0]))
        inside = F.pad(inside, (padding[1], padding[1] + more[1], padding[0], padding[0] + more[0]))
        padding = (0, 0)
    places = undilated(torch.eye(count, dtype=like.dtype, device=like.device).view(count, 1, *kernel), dilation)
    valid = F.conv2d(inside[None], places, stride=stride, padding=padding)
    weight = torch.zeros(channels, count, channels, *places.shape[2:], dtype=like.dtype, device=like.device)
    weight[range(channels), :, range(channels)] = places[:, 0]
    windows = convolve(call.builder, x, weight.flatten(0, 1), None, stride, padding)
    return _sum_of_largest(call, windows, valid)


def _sum_of_largest(call: Call, windows: Data, valid: Tensor) -> Data:
    """[C n, H, W] to [C, H, W]: of every n neighbouring channels the largest, see `Largest`."""
    like, count = windows.values[0], valid.shape[1]
    kept = call.builder.apply(Largest(valid.to(like)), windows)
    total = torch.eye(windows.shape[0] // count, dtype=like.dtype, device=like.device).repeat_interleave(count, 1)
    return convolve(call.builder, kept, total[:, :, None, None])


def _pooled(call: Call) -> tuple[int, ...]:
    return tuple(call.shape[-2:]) if len(call.shape) == 3 else (1, 1)


@rule("sort", "topk")
def _sort(call: Call) -> Data:
    """Of a few numbers, as in GroupSort: neighbours change places in turns, by y = x - D^T relu(D x)."""
    x, given = call.x, [call.get(i) for i in range(1, len(call.arguments[0]))]
    if call.name == "topk":
        kept, dim, descending, in_order = given
        if kept > 1 and not in_order:
            raise Unbounded(unknown("topk in no order"))
    else:
        dim, descending = given or (call.options.get("dim", -1), call.options.get("descending", False))
    axis = dim % (len(x.shape) + 1) - 1
    count, channels, rest = x.shape[axis], math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if axis < 0 or count > SORTED or (channels * count) ** 2 > KERNEL:
        raise Unbounded(unknown(f"sorting more than {SORTED} numbers, or in more than {KERNEL**0.5:g}"))
    sign = -1 if descending else 1
    found = call.builder.apply(Reshape((channels * count, rest, 1)), x)
    unit = torch.eye(count, dtype=torch.float64, device=call.out[0].device)
    for turn in range(count if count > 2 else count - 1):
        first = torch.arange(turn % 2, count - 1, 2)
        difference = sign * (unit[first] - unit[first + 1])
        higher = call.builder.apply(nn.ReLU(), _in_groups(call, found.shared, difference))
        found = call.builder.add(found.shared, _in_groups(call, higher, -difference.T))
    kept = call.shape[axis]
    found = found if kept == count else _in_groups(call, found, unit[:kept])
    return call.builder.apply(Reshape(tuple(call.shape)), found)


def _in_groups(call: Call, x: Data, weight: Tensor) -> Data:
    """[C n, H, W] to [C m, H, W]: the same matrix [m, n] for every n neighbouring channels."""
    groups = torch.eye(x.shape[0] // weight.shape[1], dtype=weight.dtype, device=weight.device)
    return convolve(call.builder, x, torch.kron(groups, weight.contiguous())[:, :, None, None].to(x.values[0]))
