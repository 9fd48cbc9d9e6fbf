"""Rewrites a network into a form that auto-LiRPA bounds fast and soundly; the function stays the same.

auto-LiRPA 0.3 needs the perturbed input to enter a linear layer or a convolution directly. Behind a
normalisation layer it forgets that an L2 ball is perturbed: it takes the interval of a single point, and its
"bounds" are the clean logits. Patches mode fails there for the L-infinity norm. So the normalisation is merged.
"""

import math

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates._layers import Reshape, Shift, Simple
from marginbench.methods import Normalise, Scale
from marginbench.methods.held import in_double, unaltered

AFFINE = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d, Normalise, Scale, Shift)
RESHAPING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, Reshape)  # dropout: identity in eval mode


def fold_affine(
    net: nn.Sequential, x: Tensor, limit: int, between: tuple[type[nn.Module], ...] = (nn.ReLU,)
) -> nn.Sequential | None:
    """Merge every run of affine layers into one linear layer: images [B, C, H, W] enter as [B, C*H*W].

    Merged layers have tighter intervals, and on small images a dense matrix is faster than a convolution. Weights
    are computed in float64, W = f(I) - f(0), b = f(0), and rounded to the type of x.

    Args:
        between: layers that work entry by entry, and stay.

    Returns:
        linear layers and those of `between` alternating, or None where a layer is of another kind, or
        all the weights together have more than `limit` entries.
    """
    net = in_double(net).eval()
    folded: list[nn.Module] = []
    run: list[nn.Module] = []
    point = torch.zeros_like(x[:1], dtype=torch.float64)
    entries = 0
    for layer in [*net, None]:
        if layer is not None and _is(layer, AFFINE + RESHAPING):
            run.append(layer)
            continue
        if layer is not None and not _is(layer, between):
            return None
        affine = nn.Sequential(*run)
        with torch.no_grad():
            out = affine(point)
        entries += point.numel() * out.numel()
        if entries > limit:
            return None
        folded += [_dense(affine, point), *([] if layer is None else [layer])]
        point, run = torch.zeros_like(out), []
    result = nn.Sequential(*folded)
    with torch.no_grad():
        same = torch.allclose(result(x.double().flatten(1)), net(x.double()), rtol=1e-6, atol=1e-6)
    return result.to(x.dtype) if same else None


def _is(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Subclasses and hooks may compute anything, also what shows for other images only."""
    return type(layer) in kinds and unaltered(layer)


@torch.no_grad()
def _dense(affine: nn.Sequential, zero: Tensor) -> nn.Linear:
    inputs = zero.numel()
    bias = affine(zero).flatten()
    basis = torch.eye(inputs, dtype=zero.dtype, device=zero.device).view(inputs, *zero.shape[1:])
    linear = nn.Linear(inputs, bias.numel(), dtype=zero.dtype, device="meta").to_empty(device=zero.device)
    linear.weight.copy_((affine(basis).flatten(1) - bias).T)
    linear.bias.copy_(bias)
    return linear


def traceable(net: Simple, x: Tensor) -> nn.Sequential:
    """The same network, with a linear layer where the images enter.

    A 1x1 convolution stands in the place of the leading normalisation; without one, it is the identity. Flat inputs get
    a matrix.
    """
    layers = [*net]
    width = x.shape[1] if x.ndim == 4 else math.prod(x.shape[1:])
    scale, shift = torch.ones(width), torch.zeros(width)
    if layers and isinstance(first := layers[0], Normalise):
        del layers[0]
        scale = first.std.double().reciprocal().flatten().expand(width)
        shift = -scale * first.mean.double().flatten()
    # made without drawing initial weights from the global generator
    entry = nn.Conv2d(width, width, 1, device="meta") if x.ndim == 4 else nn.Linear(width, width, device="meta")
    entry.to_empty(device=x.device)
    assert entry.bias is not None
    with torch.no_grad():
        entry.weight.copy_(torch.diag(scale).view_as(entry.weight))
        entry.bias.copy_(shift)
    return nn.Sequential(entry.to(x.dtype), *layers).eval()  # auto-LiRPA asks the whole network for its mode
