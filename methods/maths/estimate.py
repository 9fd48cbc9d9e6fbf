"""Lipschitz constants for training: differentiable, from power iterations that continue from step to step.

They approach the true norms from below and are not bounds; those are in `lipschitz.py`.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from marginbench.methods.maths.layers import Weighted
from marginbench.methods.maths.lipschitz import (
    BatchNorm,
    batch_norm_scale,
    flat,
    is_batch_norm,
    layer_bound,
    leaves,
    merged,
    per_channel,
)
from marginbench.methods.maths.operator_norm import apply, power_iterate
from marginbench.methods.maths.perturb import eval_mode
from marginbench.methods.method import as_float
from marginbench.methods.net import Net, Normalise, Residual, Scale

_WARM_UP = 20  # power iterations before the first step

Variances = Mapping[nn.Module, Tensor]  # [C] of batch norms


def keep_vectors(net: Net, shape: tuple[int, ...]) -> None:
    """Give every layer the buffer that `estimate` needs: `power_vector` [1, ...] or, without weights, `bound` [].

    Args:
        shape: C, H, W of the images.

    Raises:
        MarginbenchError: no bound is known for a layer; the message names it.
    """
    weight = next(net.parameters())
    x = torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)
    generator = torch.Generator().manual_seed(0)  # the start hardly matters, but the global RNG must stay untouched
    with torch.no_grad(), eval_mode(net):
        for layer, inputs in leaves(flat(net.normalise, net.body, net.head), x):
            bound = layer_bound(layer, inputs)
            if isinstance(layer, Weighted):
                layer.register_buffer("power_vector", torch.randn(inputs.shape, generator=generator).to(inputs))
            elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
                layer.register_buffer("bound", torch.as_tensor(bound).to(weight))
        for _ in range(_WARM_UP):
            advance(net)


@contextmanager
def batch_variances(net: nn.Module) -> Iterator[Variances]:
    """A block in which a forward pass notes the variance [C] by which every batch norm in training mode divides."""
    found: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = as_float(inputs[0])
        found[layer] = x.var([d for d in range(x.dim()) if d != 1], correction=0)

    handles = [
        layer.register_forward_pre_hook(note) for layer in net.modules() if is_batch_norm(layer) and layer.training
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def estimate(part: nn.Module, variances: Variances) -> Tensor | float:
    """The Lipschitz constant of a part of a network: float64, since that of a deep one can exceed float32.

    Args:
        variances: those of the batch, with their graph; a batch norm that is not among them has its running one.
    """
    return math.prod((_estimate(layer, norm, variances) for layer, norm in merged(flat(part))), start=1.0)


def _estimate(layer: nn.Module, norm: BatchNorm | None, variances: Variances) -> Tensor | float:
    if isinstance(layer, Residual):
        return estimate(layer.shortcut, variances) + estimate(layer.branch, variances)
    if isinstance(layer, Weighted):
        stretch: Tensor = _image(layer, norm, variances, layer.get_buffer("power_vector")).norm()
        return stretch.double()
    if is_batch_norm(layer):
        return batch_norm_scale(layer, torch.float64, variances.get(layer)).max()
    if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        return layer.get_buffer("bound").double()
    if isinstance(layer, Normalise | Scale):
        return 1 / layer.std.double().min() if isinstance(layer, Normalise) else abs(layer.factor)
    return 1.0


def advance(net: Net) -> None:
    """One step of every power iteration, with the running variances, which the certificate will have, too."""
    for layer, norm in _with_weights(net.normalise, net.body, net.head):
        v = layer.get_buffer("power_vector")
        v.copy_(power_iterate(partial(_image, layer, norm, {}), v))


def _with_weights(*parts: nn.Module) -> Iterator[tuple[Weighted, BatchNorm | None]]:
    for layer, norm in merged(flat(*parts)):
        if isinstance(layer, Residual):
            yield from _with_weights(layer.shortcut)
            yield from _with_weights(layer.branch)
        elif isinstance(layer, Weighted):
            yield layer, norm


def _image(layer: Weighted, norm: BatchNorm | None, variances: Variances, v: Tensor) -> Tensor:
    """Of a vector [1, ...] under the linear part of a layer and the batch norm behind it."""
    out = apply(layer, v)
    if norm is None:
        return out
    return out * per_channel(batch_norm_scale(norm, out.dtype, variances.get(norm)), out, 1)
