"""Linear operations as convolutions, matrices and sums."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.certificates._builder import Data, depthwise, linear, per_channel
from marginbench.benchmarks.certificates._call import (
    NO_PRODUCT,
    NORMALISED,
    Call,
    Two,
    affine,
    as_matrix,
    broadcast,
    convolve,
    on_top,
    repeated,
    rule,
    unknown,
)
from marginbench.benchmarks.certificates._layers import Curved, Reshape
from marginbench.benchmarks.certificates._record import Unbounded

KERNEL = 2**24  # entries of a kernel without groups
# x times a function of x
GATED = {("sigmoid",): "silu", ("hardsigmoid",): "hardswish", ("tanh", Curved("softplus", 1, 20).text): "mish"}


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
            for x, gate in ((first, second), (second, first)):
                if (kind := GATED.get(_curves(call, x, gate))) is not None:
                    return call.builder.apply(Curved(kind), x.shared)
            raise Unbounded(NO_PRODUCT)
        return affine(call, first, second, 0.0) if isinstance(first, Data) else affine(call, second, first, 0.0)
    if isinstance(second, Data) or call.options.get("rounding_mode"):
        raise Unbounded("a division by values that depend on the image has no sound bound here")
    return affine(call, first, 1 / torch.as_tensor(second, dtype=torch.float64), 0.0)


def _curves(call: Call, x: Data, gate: Data) -> tuple[str, ...]:
    """The functions by which the gate is made of x, the last first; those of something else end with their source."""
    node, found = gate.node, []
    while node is not x.node and node.op == "call_module":
        layer = call.builder.root.get_submodule(str(node.target))
        found.append(layer.text if isinstance(layer, Curved) else str(node))
        node = node.all_input_nodes[0]
    return (*found, *(() if node is x.node else (str(node),)))


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
    parts = on_top(call, stack)
    total, constant = None, torch.zeros((), dtype=torch.float64, device=call.out[0].device)
    for part in parts:
        if isinstance(part, Data):
            total = part.shared if total is None else call.builder.add(total.shared, part.shared)
        else:
            constant = constant + part.double()
    assert total is not None
    share = 1 / len(parts) if call.name == "mean" else 1.0
    return affine(call, total, share, share * constant)


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
    permute transpose t flip roll pixel_shuffle pixel_unshuffle channel_shuffle cumsum movedim expand_as repeat rot90
    im2col unfold diagonal triu tril avg_pool1d avg_pool3d _adaptive_avg_pool1d _adaptive_avg_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d
"""


@rule(*OTHERS.split())
def matrix(call: Call) -> Data:
    """A linear operation on one value, as a matrix."""
    return as_matrix(call.builder, call.x, lambda t: repeated(call, t), call.shape, call.name.strip("_"))


def two(value: Any) -> Two:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])
