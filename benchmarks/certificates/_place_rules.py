"""What cuts out, joins, surrounds or overwrites parts of a value: channels by 1x1 convolutions, others by matrices."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.certificates._builder import Builder, Data, convolution, depthwise, linear
from marginbench.benchmarks.certificates._call import (
    Call,
    affine,
    as_matrix,
    convolve,
    repeated,
    rule,
    too_large,
    unknown,
)
from marginbench.benchmarks.certificates._layers import Reshape
from marginbench.benchmarks.certificates._linear_rules import matrix
from marginbench.benchmarks.certificates._record import Unbounded


@rule("constant_pad_nd", "pad")
def _constant_pad(call: Call) -> Data:
    x, pads = call.x, list(call.get(1))
    if call.get(2) or len(x.shape) != 3 or len(pads) > 6 or min(pads[4:], default=0) < 0:
        return matrix(call)
    left, right, top, bottom, front, _ = (*pads, 0, 0, 0, 0)[:6]
    if any(pads[:4]):
        x = padded(call.builder, x, (left, right, top, bottom))
    return x if x.shape == call.shape else _placed(call, x, 1, front, x.shape[0])


def padded(builder: Builder, x: Data, pads: tuple[int, int, int, int]) -> Data:
    """Zeros around an image, or a crop where negative: a convolution with one 1 in its kernel."""
    left, right, top, bottom = pads
    rows, columns = max(top, bottom, 0), max(left, right, 0)
    kernel = torch.zeros(1 + 2 * rows - top - bottom, 1 + 2 * columns - left - right)
    kernel[rows - top, columns - left] = 1
    return convolve(builder, x, depthwise(kernel, x.shape[0], x.values[0]), padding=(rows, columns))


def _lengthened(builder: Builder, x: Data, dim: int, ends: tuple[int, int]) -> Data:
    """`padded` at both ends of the rows, dim 2, or of the columns, dim 3."""
    return padded(builder, x, (*ends, 0, 0) if dim == 3 else (0, 0, *ends))


@rule("cat", "concat")
def _cat(call: Call) -> Data:
    return _joined(call, call.get(0), int(call.get(1)))


@rule("stack")
def _stack(call: Call) -> Data:
    """A concatenation of its parts, each with one more axis."""
    dim = int(call.get(1)) % (len(call.shape) + 1)
    shape = _one_thick(call, dim)

    def part(value: Any) -> Any:
        if isinstance(value, Data):
            return call.builder.apply(Reshape(shape), value.shared)
        return value.reshape(-1, *shape)

    return _joined(call, [part(value) for value in call.get(0)], dim)


def _one_thick(call: Call, dim: int) -> tuple[int, ...]:
    """The shape of the result for one image, with a size of 1 along the dimension."""
    return tuple(1 if i == dim - 1 else size for i, size in enumerate(call.shape))


def _joined(call: Call, parts: Sequence[Any], dim: int) -> Data:
    """The sum of the parts, each put in its place."""
    dim %= len(call.shape) + 1
    if dim == 0:
        raise Unbounded("the model puts the images of a batch together")
    total: Data | None = None
    start, like = 0, call.out[0]
    constant = torch.zeros(call.shape, dtype=like.dtype, device=like.device)
    for part in parts:
        size = part.shape[dim - 1] if isinstance(part, Data) else part.shape[dim]
        if isinstance(part, Data):
            placed = _placed(call, part.shared, dim, start, size)
            total = placed if total is None else call.builder.add(total, placed)
        else:
            constant.narrow(dim - 1, start, size).copy_(part.expand(1, *part.shape[1:])[0])
        start += size
    assert total is not None
    return affine(call, total, 1.0, constant.double())


def _placed(call: Call, part: Data, dim: int, start: int, size: int) -> Data:
    total, like = call.shape[dim - 1], call.out[0]
    if dim == 1 and len(part.shape) in (1, 3):
        weight = torch.zeros(total, size, dtype=like.dtype, device=like.device)
        weight[start : start + size] = torch.eye(size, dtype=like.dtype, device=like.device)
        flat = len(part.shape) == 1
        layer = linear(weight, None, like) if flat else convolution(weight[:, :, None, None], None, like)
        return call.builder.apply(layer, part)
    if len(part.shape) == len(call.shape) == 3 and too_large(part.shape, call.shape):
        return _lengthened(call.builder, part, dim, (start, total - start - size))

    def place(t: Tensor) -> Tensor:
        out = t.new_zeros(len(t), *call.shape)
        out.narrow(dim, start, size).copy_(t)
        return out

    return as_matrix(call.builder, part, place, call.shape)


@rule("slice", "select", "narrow", "index_select", "index", "split", "split_with_sizes", "chunk", "unbind")
def _part(call: Call) -> Data:
    """Channels, by a 1x1 convolution; rows, columns and the rest by a matrix."""
    x = call.x
    if torch.equal(call.out[0], x.values[0]):
        return x
    if len(x.shape) in (1, 3) and _of_channels(call):
        like = call.out[0]
        unit = torch.eye(x.shape[0], dtype=like.dtype, device=like.device)
        image = unit.view(*unit.shape, *[1] * (len(x.shape) - 1))
        rows = repeated(call, image).flatten(1).T
        if rows.shape == (call.shape[0], x.shape[0]):
            layer = linear(rows, None, like) if len(x.shape) == 1 else convolution(rows[:, :, None, None], None, like)
            return call.builder.apply(layer, x)
    if call.name == "slice" and len(x.shape) == 3 and too_large(x.shape, call.shape):
        dim, start, end, step = (call.get(i) for i in range(1, 5))
        start, end, step = slice(start, end, step).indices(x.shape[dim - 1])
        if dim > 1 and step == 1:
            return _lengthened(call.builder, x, dim, (-start, end - x.shape[dim - 1]))
    return matrix(call)


@rule("gather")
def _gathered(call: Call) -> Data:
    """Chosen by the same numbers in all images."""
    dim, index = call.get(1) % (len(call.shape) + 1), call.get(2)
    if dim == 0:
        raise Unbounded(unknown(call.name))
    return as_matrix(call.builder, call.x, lambda t: t.gather(dim, index.expand(len(t), *call.shape)), call.shape)


def _of_channels(call: Call) -> bool:
    """Whether it chooses among channels, and leaves rows and columns as they are."""
    if len(call.shape) != len(call.x.shape) or call.shape[1:] != call.x.shape[1:]:
        return False
    if call.name == "index_select":
        return bool(call.get(1) % (len(call.x.shape) + 1) == 1)
    return call.name != "index" or all(index is None for index in call.get(1)[2:])


@rule("slice_scatter", "select_scatter")
def _put(call: Call) -> Data:
    """What is written into a part of something, as in `out[:, :, 1:] = x[:, :, :-1]`: the sum of both."""
    below, above, dim = call.get(0), call.get(1), call.get(2) % (len(call.shape) + 1)
    if not isinstance(above, Data):
        return _filled(call)
    if call.name == "select_scatter":
        start, step = call.get(3) % call.shape[dim - 1], 1
        above = call.builder.apply(Reshape(_one_thick(call, dim)), above.shared)
    else:
        start, _, step = slice(call.get(3), call.get(4), call.get(5)).indices(call.shape[dim - 1])
    if dim == 0 or step != 1:
        raise Unbounded(unknown(call.name))
    size = above.shape[dim - 1]
    if size == call.shape[dim - 1]:
        return above
    placed = _placed(call, above.shared, dim, start, size)
    kept = torch.ones(call.shape, dtype=torch.float64, device=call.out[0].device)
    kept.narrow(dim - 1, start, size).zero_()
    if isinstance(below, Data):
        return call.builder.add(placed, affine(call, below.shared, kept, 0.0))
    return affine(call, placed, 1.0, kept * below.double())


@rule("masked_fill", "index_fill", "where", "scatter")
def _filled(call: Call) -> Data:
    """Constants in fixed places: scale x + shift, with a scale of 0 there. As classes are masked, by -inf too."""
    values = [call.get(i) for i in range(len(call.arguments[0]))]
    data = [value for value in values if isinstance(value, Data)]
    if len(data) != 1 or data[0].shape != call.shape:
        raise Unbounded(unknown(call.name))
    zero = torch.zeros_like(call.out[0][:1])
    low, high = repeated(call, zero), repeated(call, zero + 1)
    return affine(call, data[0], (high - low).nan_to_num(0.0)[0], low[0])
