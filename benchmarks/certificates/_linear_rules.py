"""Linear operations as convolutions, matrices and sums."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.certificates._builder import Builder, Data, convolution, depthwise, linear, per_channel
from marginbench.benchmarks.certificates._call import (
    DENSE,
    NO_PRODUCT,
    NORMALISED,
    Call,
    Two,
    affine,
    as_matrix,
    broadcast,
    convolve,
    repeated,
    rule,
    unknown,
)
from marginbench.benchmarks.certificates._layers import Curved, Reshape
from marginbench.benchmarks.certificates._record import Unbounded

KERNEL = 2**24  # entries of a kernel without groups


@rule("clone", "alias", "detach", "lift_fresh_copy", "contiguous", "dropout", "_to_copy", "native_dropout")
def _nothing(call: Call) -> Data:
    _check_unrounded(call)
    return call.x


def _check_unrounded(call: Call) -> None:
    if call.out[0].is_complex():
        raise Unbounded(unknown("_fft_r2c"))
    if call.out[0].dtype not in (torch.float32, torch.float64):
        raise Unbounded(f"numbers are rounded to {str(call.out[0].dtype).removeprefix('torch.')} inside the model")


@rule("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "unflatten", "view_copy")
def _reshape(call: Call) -> Data:
    if call.shape == call.x.shape:
        return call.x
    return call.builder.apply(Reshape(tuple(call.shape)), call.x)


@rule("expand", "copy")
def _expand(call: Call) -> Data:
    _check_unrounded(call)
    return broadcast(call, call.get(1) if call.name == "copy" else call.x)


@rule("convolution", "_convolution")
def _convolution(call: Call) -> Data:
    weight, bias, stride, padding, dilation, transposed, _, groups = (call.get(i) for i in range(1, 9))
    if transposed or weight.ndim != 4:
        return matrix(call)
    if weight.numel() * groups > KERNEL:
        raise Unbounded(f"a convolution in {groups} groups of {weight.shape[0]} channels is too large for bounds")
    weight = undilated(_ungrouped(weight, groups), dilation)
    return convolve(call.builder, call.x, weight, bias, two(stride), two(padding))


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The same with zeros between the groups, which auto-LiRPA's patches mode mixes up."""
    parts = weight.chunk(groups)
    inputs = weight.shape[1]
    return torch.cat([F.pad(part, (0, 0, 0, 0, i * inputs, (groups - 1 - i) * inputs)) for i, part in enumerate(parts)])


def undilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """The same kernel with zeros in its gaps: auto-LiRPA's patches mode ignores a dilation."""
    size = [d * (n - 1) + 1 for n, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = weight.new_zeros(*weight.shape[:2], *size)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


@rule("addmm", "mm", "linear")
def _linear(call: Call) -> Data:
    bias = None
    if call.name == "addmm":
        bias, x, weight = (call.get(i) for i in range(3))
    else:
        x, weight = call.get(0), call.get(1)
    if call.name == "linear":
        weight, bias = weight.T, call.get(2)
    if not isinstance(x, Data) or isinstance(weight, Data) or len(x.shape) != 1:
        raise Unbounded(NO_PRODUCT if isinstance(weight, Data) else unknown("a linear layer on parts of an image"))
    bias = None if bias is None else bias.expand(weight.shape[1])
    layer = linear(weight.T, bias, x.values[0])
    return call.builder.apply(layer, x)


@rule("native_batch_norm", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit")
def _batch_norm(call: Call) -> Data:
    mean, variance, training = call.get(3), call.get(4), call.get(5)
    if training or mean is None:
        raise Unbounded(f"BatchNorm or InstanceNorm without running statistics has no sound bound here: {NORMALISED}")
    eps = call.get(7)
    gamma, beta = call.get(1), call.get(2)
    scale = (variance.double() + eps).rsqrt() * (1 if gamma is None else gamma.double())
    shift = (0 if beta is None else beta.double()) - scale * mean.double()
    return call.builder.apply(per_channel(scale, shift, call.x.values[0]), call.x)


@rule("_native_batch_norm_legit_no_training")
def _batch_norm_without_flag(call: Call) -> Data:
    arguments = [[*part[:5], False, *part[5:]] for part in call.arguments]
    return _batch_norm(call._replace(arguments=(arguments[0], arguments[1])))


@rule("add", "sub", "rsub", "neg")
def _arithmetic(call: Call) -> Data:
    """s x + t with constants, or the sum or difference of two values."""
    if call.name == "neg":
        return affine(call, call.x, -1.0, 0.0)
    first, second = call.get(0), call.get(1)
    if call.name == "rsub":
        first, second = second, first
    factor = call.get(2) if call.name == "rsub" else call.options.get("alpha", 1)
    factor = factor if call.name == "add" else -factor
    if isinstance(first, Data) and isinstance(second, Data):
        parts = [broadcast(call, part.shared) for part in (first, second)]
        return call.builder.add(parts[0], affine(call, parts[1], factor, 0.0))
    if isinstance(first, Data):
        return affine(call, first, 1.0, factor * torch.as_tensor(second, dtype=torch.float64))
    return affine(call, second, factor, first)


@rule("mul", "div", "true_divide")
def _product(call: Call) -> Data:
    first, second = call.get(0), call.get(1)
    if call.name == "mul":
        if isinstance(first, Data) and isinstance(second, Data):
            if first.node is second.node:
                return call.builder.apply(Curved("square"), first)
            raise Unbounded(NO_PRODUCT)
        return affine(call, first, second, 0.0) if isinstance(first, Data) else affine(call, second, first, 0.0)
    if isinstance(second, Data) or call.options.get("rounding_mode"):
        raise Unbounded("a division by values that depend on the image has no sound bound here")
    return affine(call, first, 1 / torch.as_tensor(second, dtype=torch.float64), 0.0)


@rule("avg_pool2d")
def _avg_pool(call: Call) -> Data:
    kernel = two(call.get(1))
    stride, padding = two(call.get(2) or kernel), two(call.get(3))
    plain = not call.get(4) and (call.get(5) or padding == (0, 0))
    if not plain or len(call.x.shape) != 3:
        return matrix(call)
    mean = torch.full(kernel, 1 / (call.get(6) or math.prod(kernel)), dtype=torch.float64)
    weight = depthwise(mean, call.x.shape[0], call.out[0])
    return convolve(call.builder, call.x, weight, None, stride, padding)


@rule("mean", "sum")
def _mean(call: Call) -> Data:
    if isinstance(call.arguments[0][0], Call):
        return _over_stack(call, call.arguments[0][0])
    dims = sorted(d % (len(call.x.shape) + 1) for d in (call.get(1) or []))
    if len(call.x.shape) != 3 or dims != [2, 3]:
        return matrix(call)
    size = call.x.shape[1:]
    kernel = torch.full(size, 1 / math.prod(size) if call.name == "mean" else 1.0, dtype=torch.float64)
    out = convolve(call.builder, call.x, depthwise(kernel, call.x.shape[0], call.out[0]))
    return out if out.shape == call.shape else call.builder.apply(Reshape(tuple(call.shape)), out)


def _over_stack(call: Call, stack: Call) -> Data:
    """Of values that lie on top of each other, as in `torch.stack([f(x), g(x)]).mean(0)`."""
    if list(call.get(1) or ()) != [0] or len(call.out[0].shape) != len(stack.out[0].shape) - 1:
        raise Unbounded(unknown("stack"))
    parts = stack.get(0)
    total, constant = None, torch.zeros((), dtype=torch.float64, device=call.out[0].device)
    for part in parts:
        if isinstance(part, Data):
            total = part.shared if total is None else call.builder.add(total.shared, part.shared)
        else:
            constant = constant + part.double()
    assert total is not None
    share = 1 / len(parts) if call.name == "mean" else 1.0
    return affine(call, total, share, share * constant)


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


@rule("cat", "concat")
def _cat(call: Call) -> Data:
    return _joined(call, call.get(0), int(call.get(1)))


@rule("stack")
def _stack(call: Call) -> Data:
    """A concatenation of its parts, each with one more axis."""
    dim = int(call.get(1)) % (len(call.shape) + 1)
    shape = [1 if i == dim - 1 else size for i, size in enumerate(call.shape)]

    def part(value: Any) -> Any:
        if isinstance(value, Data):
            return call.builder.apply(Reshape(tuple(shape)), value.shared)
        return value.reshape(-1, *shape)

    return _joined(call, [part(value) for value in call.get(0)], dim)


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
    if len(part.shape) == len(call.shape) == 3 and part.shape.numel() * call.shape.numel() > DENSE:
        ends = (start, total - start - size)
        return padded(call.builder, part, (*ends, 0, 0) if dim == 3 else (0, 0, *ends))

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
    if (
        len(x.shape) in (1, 3)
        and call.shape[1:] == x.shape[1:]
        and len(call.shape) == len(x.shape)
        and _of_channels(call)
    ):
        like = call.out[0]
        unit = torch.eye(x.shape[0], dtype=like.dtype, device=like.device)
        image = unit.view(*unit.shape, *[1] * (len(x.shape) - 1))
        rows = repeated(call, image).flatten(1).T
        if rows.shape == (call.shape[0], x.shape[0]):
            layer = linear(rows, None, like) if len(x.shape) == 1 else convolution(rows[:, :, None, None], None, like)
            return call.builder.apply(layer, x)
    if call.name == "slice" and len(x.shape) == 3 and x.shape.numel() * call.shape.numel() > DENSE:
        dim, start, end, step = (call.get(i) for i in range(1, 5))
        start, end, step = slice(start, end, step).indices(x.shape[dim - 1])
        if dim > 1 and step == 1:
            ends = (-start, end - x.shape[dim - 1])
            return padded(call.builder, x, (*ends, 0, 0) if dim == 3 else (0, 0, *ends))
    return matrix(call)


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
        shape = [1 if i == dim - 1 else size for i, size in enumerate(call.shape)]
        above = call.builder.apply(Reshape(tuple(shape)), above.shared)
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


@rule("bmm")
def _batch_product(call: Call) -> Data:
    """With a matrix that is the same for all images."""
    first, second = call.get(0), call.get(1)
    if isinstance(first, Data) and isinstance(second, Data):
        raise Unbounded(unknown(call.name))
    if isinstance(first, Data):
        return as_matrix(call.builder, first, lambda t: t @ second[0].to(t), call.shape, "a product of matrices")
    return as_matrix(call.builder, second, lambda t: first[0].to(t) @ t, call.shape, "a product of matrices")


OTHERS = """
    permute transpose t flip roll pixel_shuffle pixel_unshuffle channel_shuffle cumsum upsample_nearest2d
    upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d _upsample_nearest_exact2d avg_pool1d
    _adaptive_avg_pool1d movedim expand_as repeat rot90 im2col unfold
"""


@rule(*OTHERS.split())
def matrix(call: Call) -> Data:
    """A linear operation on one value, as a matrix."""
    return as_matrix(call.builder, call.x, lambda t: repeated(call, t), call.shape, call.name.strip("_"))


def two(value: Any) -> Two:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])
