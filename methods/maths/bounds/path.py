"""A network as affine maps, ReLUs and residual sums, the form in which bounds take it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.maths.bounds.linear import Affine, Path, Sum
from marginbench.methods.maths.lipschitz import flat, is_plain, pair, zero_padded
from marginbench.methods.maths.operator_norm import convolution_matrix, reached_outputs
from marginbench.methods.net import Net, Normalise, Residual, Scale, Subsample

DENSE = 2**17  # convolutions with at most this many entries are written out as matrices


def path_of(net: Net, shape: tuple[int, ...], dtype: torch.dtype | None = None, clean: Tensor | None = None) -> Path:
    """Normalisation and body, differentiable in the weights.

    Batch norm is x -> gamma (x - mean) / sqrt(variance + eps) + beta, merged into the affine map before it. In eval
    mode it has the running mean and variance; in training mode those of the clean images of the batch, and gradients
    flow through them, as by default in auto_LiRPA (Xu et al., NeurIPS 2020) and in CTBench (Mao et al., 2024).

    Args:
        shape: C, H, W of the images.
        dtype: of the weights; by default as they are.
        clean: [B, C, H, W] images for batch norm in training mode; without them it has its running statistics.

    Raises:
        MarginbenchError: an unknown layer, or a head that is not linear; the message names it.
    """
    head = linear_head(net).weight.to(dtype)
    counts = any(is_batch_norm(layer) and layer.training for layer in net.modules())
    values = clean.flatten(1).to(head.dtype) if clean is not None and counts else None
    return _follow(flat(net.normalise, net.body), _Stage(shape, head, values))[0]


def linear_head(net: Net) -> nn.Linear:
    """The last layer.

    Raises:
        MarginbenchError: it is not linear.
    """
    if not is_plain(net.head, nn.Linear):
        raise MarginbenchError(f"no linear bounds are known for the head {net.head}")
    return net.head


def affine_head(net: Net, dtype: torch.dtype | None = None) -> Affine:
    """The last layer as a map. Errors as above."""
    head = linear_head(net)
    weight = head.weight.to(dtype)
    return Affine(weight, _bias(head.bias, weight))


def specification(net: Net, y: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Rows [B, K, d] and constants [B, K] of z_y - z_j on the features; 0 for j = y."""
    head = affine_head(net, dtype)
    return head.weight[y][:, None] - head.weight, head.bias[y][:, None] - head.bias


@dataclass(frozen=True)
class _Stage:
    """What is known between two layers."""

    shape: tuple[int, ...]  # without the batch
    like: Tensor  # of the dtype and on the device that maps should have
    clean: Tensor | None  # [B, m] what becomes of the clean images


def _follow(layers: Iterable[nn.Module], stage: _Stage, branch: bool = False) -> tuple[Path, _Stage]:
    """The layers as blocks, and what is known behind them. The input of a branch may be negative, pixels may not."""
    blocks: list[list[Affine | Sum]] = [[]]
    for layer in layers:
        if is_plain(layer, nn.ReLU):
            if blocks[-1] or (branch and len(blocks) == 1):  # a second ReLU in a row changes nothing
                blocks.append([])
            stage = replace(stage, clean=None if stage.clean is None else stage.clean.relu())
        elif is_plain(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            stage = replace(stage, shape=(math.prod(stage.shape),))
        elif is_plain(layer, Residual):
            both, stage = _sum(layer, stage)
            blocks[-1].append(both)
        elif not is_plain(layer, nn.Identity):
            affine, shape = _diagonal(layer, stage) or _mixing(layer, stage)
            last = blocks[-1][-1] if blocks[-1] else None
            if is_batch_norm(layer) and isinstance(last, Affine):
                blocks[-1][-1] = _scaled(last, affine)
            else:
                blocks[-1].append(affine)
            stage = replace(stage, shape=shape, clean=None if stage.clean is None else affine.forward(stage.clean))
    return blocks, stage


def _sum(layer: Residual, stage: _Stage) -> tuple[Sum, _Stage]:
    ends = [_follow(flat(path), stage, branch=True) for path in (layer.shortcut, layer.branch)]
    (shortcut, end), (branch, other) = ends
    if end.shape != other.shape:
        raise MarginbenchError(f"no linear bounds are known for sums of unlike shapes, as in the layer {layer}")
    clean = None if end.clean is None or other.clean is None else end.clean + other.clean
    return Sum((shortcut, branch)), replace(end, clean=clean)


def _diagonal(layer: nn.Module, stage: _Stage) -> tuple[Affine, tuple[int, ...]] | None:
    """The layer, if it treats each value alone, and the shape behind it."""
    if is_plain(layer, Normalise):
        mean, std = (part.to(stage.like)[0].expand(stage.shape).flatten() for part in (layer.mean, layer.std))
        return Affine(1 / std, -mean / std), stage.shape
    if is_plain(layer, Scale):
        factor = stage.like.new_full((math.prod(stage.shape),), layer.factor)
        return Affine(factor, torch.zeros_like(factor)), stage.shape
    if is_batch_norm(layer) and layer.running_mean is not None:
        pixels = math.prod(stage.shape[1:])
        scale, shift = (part.repeat_interleave(pixels) for part in _batch_norm(layer, stage))
        return Affine(scale, shift), stage.shape
    return None


def _mixing(layer: nn.Module, stage: _Stage) -> tuple[Affine, tuple[int, ...]]:
    """Any other layer, and the shape behind it."""
    shape, like = stage.shape, stage.like
    if is_plain(layer, nn.Linear):
        weight = layer.weight.to(like)
        return Affine(weight, _bias(layer.bias, weight)), (*shape[:-1], layer.out_features)
    if is_plain(layer, nn.Conv2d) and zero_padded(layer) and isinstance(layer.padding, tuple):
        weight = layer.weight.to(like)
        return _convolution(weight, _bias(layer.bias, weight), shape, pair(layer.stride), pair(layer.padding))
    if is_plain(layer, Subsample):
        weight = layer.kernel.to(like)
        return _convolution(weight, _bias(None, weight), shape, (2, 2), (0, 0))
    if is_plain(layer, nn.AvgPool2d) and layer.count_include_pad and not layer.ceil_mode:
        window = pair(layer.kernel_size)
        weight = _mean(stage, window) * math.prod(window) / (layer.divisor_override or math.prod(window))
        return _convolution(weight, _bias(None, weight), shape, pair(layer.stride), pair(layer.padding))
    if is_plain(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        weight = _mean(stage, (shape[1], shape[2]))
        return _convolution(weight, _bias(None, weight), shape, (1, 1), (0, 0))
    raise MarginbenchError(f"no linear bounds are known for the layer {layer}")


def is_batch_norm(layer: nn.Module) -> TypeGuard[nn.BatchNorm1d | nn.BatchNorm2d]:
    return is_plain(layer, nn.BatchNorm1d) or is_plain(layer, nn.BatchNorm2d)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, stage: _Stage) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a layer with running statistics."""
    if layer.training and stage.clean is not None:
        values = stage.clean.unflatten(1, (layer.num_features, -1))
        variance, mean = torch.var_mean(values, (0, 2), correction=0)
    else:
        assert layer.running_mean is not None and layer.running_var is not None
        mean, variance = layer.running_mean.to(stage.like), layer.running_var.to(stage.like)
    scale = (variance + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.to(stage.like))
    return scale, (0 if layer.bias is None else layer.bias.to(stage.like)) - mean * scale


def _mean(stage: _Stage, window: tuple[int, int]) -> Tensor:
    """The kernel [C, C, kh, kw] that takes the mean of each channel over windows."""
    channels = torch.eye(stage.shape[0], dtype=stage.like.dtype, device=stage.like.device)
    return channels[:, :, None, None].expand(-1, -1, *window) / math.prod(window)


def _convolution(
    weight: Tensor, bias: Tensor, shape: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[Affine, tuple[int, ...]]:
    size = zip(shape[1:], padding, weight.shape[2:], stride, strict=True)
    outputs = (len(weight), *((n + 2 * p - k) // s + 1 for n, p, k, s in size))
    bias = bias.repeat_interleave(math.prod(outputs[1:]))
    if math.prod(shape) * math.prod(outputs) > DENSE:
        return Affine(weight, bias, (stride, padding), shape, outputs), outputs
    geometry = ((shape[1], shape[2]), stride, padding)
    return Affine(convolution_matrix(weight, *geometry), bias, reach=reached_outputs(weight, *geometry)), outputs


def _scaled(affine: Affine, by: Affine) -> Affine:
    """The map followed by a diagonal one that is the same at all positions of a channel."""
    if affine.geometry is None:
        weight = affine.weight * (by.weight if affine.weight.dim() == 1 else by.weight[:, None])
    else:
        weight = affine.weight * by.weight.view(len(affine.weight), -1)[:, :1, None, None]
    return replace(affine, weight=weight, bias=affine.bias * by.weight + by.bias)


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[0]) if bias is None else bias.to(weight)
