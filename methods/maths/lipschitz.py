"""Euclidean Lipschitz bounds of feed-forward networks, layer by layer, and the radii that they certify."""

import math
from collections.abc import Iterable, Iterator
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.maths.layers import Weighted
from marginbench.methods.maths.operator_norm import convolution_norm, matrix_norm
from marginbench.methods.maths.rounding import logit_allowance
from marginbench.methods.method import NotApplicable, Radii
from marginbench.methods.net import Normalise, Residual, Scale, Subsample

RADIUS_ROUNDING = 1e-6  # relative: float32 cannot hold the radius exactly

M = TypeVar("M", bound=nn.Module)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class Bounded(nn.Module):
    """A layer that knows a bound of its own, and what it is called."""

    in_words: str

    def lipschitz(self, x: Tensor) -> Tensor | float | None:
        """Upper bound on its Lipschitz constant in L2 at inputs of the shape of x [1, ...], None if none is known."""
        raise NotImplementedError


def lipschitz_radius(net: nn.Sequential, x: Tensor, last_layer: bool = True) -> Radii | NotApplicable:
    """L2 radii within which the class of a feed-forward network in eval mode cannot change.

    radius = min_{j != p} (z_p - z_j) / (L ||w_p - w_j||), p the predicted class, w the rows of the last layer [K, d]
    and L an upper bound on the Lipschitz constant of the features, the product of the layers' norms in float64
    (Tsuzuku, Sato, Sugiyama, NeurIPS 2018, there for the true class). Logits are taken as the network computes
    them; the gap is lowered by what rounding in float32 may move it, see `logit_allowance`.

    Args:
        net: images to logits; its last layer is linear. `Net.decision_net()` makes one.
        x: [B, C, H, W] images in [0, 1].
        last_layer: with false, sqrt(2) ||W|| stands in place of ||w_p - w_j||, W the whole last layer.

    Returns:
        radii [B] in pixels, in the dtype of x, or the name of the layer for which no bound is known.
    """
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        return NotApplicable("the weights are not finite")
    *body, head = flat(net)
    if not is_plain(head, nn.Linear):
        return NotApplicable(f"the last layer is not linear: {_in_words(head)}")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            lipschitz = feature_bound(body, x[:1])
        except MarginbenchError as error:
            return NotApplicable(str(error))
        logits = x
        for layer in (*body, head):
            logits = layer(logits)
        weight = head.weight.double()
        if last_layer:
            slopes = lipschitz * torch.linalg.vector_norm(weight[:, None] - weight, dim=2)
        else:
            slopes = (math.sqrt(2) * lipschitz * matrix_norm(weight)).expand(len(weight), len(weight))
        return Radii(_radius(logits.double(), slopes, logit_allowance(net, x)).to(x.dtype))


def _radius(logits: Tensor, slopes: Tensor, rounding: Tensor) -> Tensor:
    """Logits [B, K], Lipschitz constants [K, K] of their differences and rounding [B, K] of these to radii [B]."""
    top, predicted = logits.max(1)
    gap = top[:, None] - logits - rounding
    slope = slopes[predicted]
    rival = torch.arange(logits.shape[1], device=logits.device) != predicted[:, None]
    radius = torch.where(gap > 0, gap / slope, 0)
    return torch.where(rival, radius, torch.inf).amin(1) * (1 - RADIUS_ROUNDING)


def feature_bound(body: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Product of the layers' bounds, float64 scalar, for images of the shape of x [1, C, H, W].

    Raises:
        MarginbenchError: no bound is known for a layer; the message names it.
    """
    bound = torch.ones((), dtype=torch.float64, device=x.device)
    for layer, norm in merged(body):
        bound = bound * layer_bound(layer, x, norm)
        x = layer(x) if norm is None else norm(layer(x))
    return bound


def flat(*layers: nn.Module) -> Iterator[nn.Module]:
    """The layers in order, with every nn.Sequential opened."""
    for layer in layers:
        if is_plain(layer, nn.Sequential):
            yield from flat(*layer.children())
        else:
            yield layer


def merged(layers: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, BatchNorm | None]]:
    """The layers in order; a batch norm right behind a layer with weights comes with it: the two are one linear map."""
    held: nn.Module | None = None
    for layer in layers:
        if held is not None:
            norm = layer if is_batch_norm(layer) else None
            yield held, norm
            held = None
            if norm is not None:
                continue
        if isinstance(layer, Weighted):
            held = layer
        else:
            yield layer, None
    if held is not None:
        yield held, None


def leaves(body: Iterable[nn.Module], x: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """Every layer with its input, starting from x; both paths of a residual sum stand in place of the sum."""
    for layer in body:
        if is_plain(layer, Residual):
            yield from leaves(flat(layer.shortcut), x)
            yield from leaves(flat(layer.branch), x)
        else:
            yield layer, x
        x = layer(x)


def is_plain(layer: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether the layer computes what its kind does: a subclass with its own forward does not."""
    return isinstance(layer, kind) and type(layer).forward is kind.forward


def is_batch_norm(layer: nn.Module) -> TypeGuard[BatchNorm]:
    return is_plain(layer, nn.BatchNorm1d) or is_plain(layer, nn.BatchNorm2d)


def layer_bound(layer: nn.Module, x: Tensor, norm: BatchNorm | None = None) -> Tensor | float:
    """Upper bound on the Lipschitz constant of one layer at inputs of the shape of x [1, ...].

    Args:
        norm: a batch norm right behind a layer with weights, of which the bound is to be that of both as one map.

    Raises:
        MarginbenchError: no bound is known for the layer.
    """
    size = (x.shape[-2], x.shape[-1]) if x.dim() == 4 else (0, 0)
    bound: Tensor | float | None = None
    if any(is_plain(layer, kind) for kind in (nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout)):
        bound = None if isinstance(layer, nn.Dropout) and layer.training else 1.0
    elif is_plain(layer, nn.Linear):
        bound = linear_bound(layer, x, norm)
    elif is_plain(layer, nn.Conv2d) and zero_padded(layer) and isinstance(layer.padding, tuple):
        bound = convolution_norm(scaled_weight(layer, norm), size, pair(layer.stride), pair(layer.padding))
    elif is_plain(layer, nn.AvgPool2d) and layer.count_include_pad and not layer.ceil_mode:
        kernel, stride, padding = (pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
        share = 1 / (layer.divisor_override or kernel[0] * kernel[1])
        mean = torch.full((1, 1, *kernel), share, dtype=torch.float64, device=x.device)
        bound = convolution_norm(mean, size, stride, padding)
    elif is_plain(layer, nn.MaxPool2d) and pair(layer.dilation) == (1, 1):
        shared = (-(-k // s) for k, s in zip(pair(layer.kernel_size), pair(layer.stride), strict=True))
        bound = math.sqrt(math.prod(shared))  # the square root of the number of windows that share a pixel, at most
    elif is_batch_norm(layer):
        bound = batch_norm_bound(layer)
    elif is_plain(layer, Residual):
        bound = feature_bound(flat(layer.shortcut), x) + feature_bound(flat(layer.branch), x)
    elif is_plain(layer, Subsample):
        bound = convolution_norm(layer.kernel, size, (2, 2), (0, 0))
    elif is_plain(layer, Normalise):
        bound = 1 / layer.std.double().abs().min()
    elif is_plain(layer, Scale):
        bound = abs(layer.factor)
    elif isinstance(layer, Bounded):
        bound = layer.lipschitz(x)
    if bound is None:
        raise MarginbenchError(f"no Lipschitz bound is known for {_in_words(layer)}")
    return bound


def _in_words(layer: nn.Module) -> str:
    """On one line. Layers that stand for a user's operations say which, as `in_words`."""
    return getattr(layer, "in_words", None) or f"the layer {' '.join(str(layer).split())}"


def linear_bound(layer: nn.Linear, x: Tensor, norm: BatchNorm | None) -> Tensor:
    """Exact, with the batch norm behind it, unless the channels of x are not its inputs: float64."""
    if norm is None or x.dim() == 2:
        return matrix_norm(scaled_weight(layer, norm))
    return matrix_norm(layer.weight) * batch_norm_bound(norm)


def batch_norm_bound(layer: BatchNorm) -> Tensor:
    """max |gamma| / sqrt(variance + eps) with running statistics: of the layer in eval mode, float64.

    Raises:
        MarginbenchError: the layer has no running statistics.
    """
    return batch_norm_scale(layer, torch.float64).max()


def scaled_weight(layer: Weighted, norm: BatchNorm | None) -> Tensor:
    """The weights of a layer [O, ...] in float64, with the scales of the batch norm behind it, if there is one."""
    weight = layer.weight.double()
    return weight if norm is None else weight * per_channel(batch_norm_scale(norm, torch.float64), weight, 0)


def batch_norm_scale(layer: BatchNorm, dtype: torch.dtype, variance: Tensor | None = None) -> Tensor:
    """|gamma| / sqrt(variance + eps) per channel [C]; without a variance [C], with the running one.

    Raises:
        MarginbenchError: the layer has no running statistics.
    """
    variance = layer.running_var if variance is None else variance
    if variance is None:
        raise MarginbenchError(f"no Lipschitz bound is known for the layer {layer} without running statistics")
    spread = (variance.to(dtype) + layer.eps).sqrt()
    return (torch.ones_like(spread) if layer.weight is None else layer.weight.to(dtype).abs()) / spread


def per_channel(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """Values [C] in a shape that multiplies a tensor along one dimension."""
    return values.view(*[-1 if d == dim else 1 for d in range(like.dim())])


def zero_padded(layer: nn.Conv2d) -> bool:
    """Whether it is one undilated convolution padded with zeros."""
    return layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
