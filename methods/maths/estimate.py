"""Lipschitz constants for training: differentiable, from power iterations that continue from step to step.

They approach the true norms from below and are not bounds; those are in `lipschitz.py`.
"""

import math

import torch
from torch import Tensor, nn

from marginbench.methods.maths.layers import Weighted, weighted_layers
from marginbench.methods.maths.lipschitz import batch_norm_bound, flat, layer_bound, leaves
from marginbench.methods.maths.operator_norm import apply, power_step
from marginbench.methods.maths.perturb import eval_mode
from marginbench.methods.net import Net, Normalise, Residual, Scale

_WARM_UP = 20  # power iterations before the first step


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
                v = torch.randn(inputs.shape, generator=generator).to(inputs)
                for _ in range(_WARM_UP):
                    v = power_step(layer, v)
                layer.register_buffer("power_vector", v)
            elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
                layer.register_buffer("bound", torch.as_tensor(bound).to(weight))


def estimate(part: nn.Module) -> Tensor | float:
    """The Lipschitz constant of a part of a network, with batch norm in eval mode."""
    if isinstance(part, Residual):
        return estimate(part.shortcut) + estimate(part.branch)
    if isinstance(part, Weighted):
        norm: Tensor = apply(part, part.get_buffer("power_vector")).norm()
        return norm
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        return batch_norm_bound(part).to(part.running_mean)
    if isinstance(part, nn.AvgPool2d | nn.MaxPool2d):
        return part.get_buffer("bound")
    if isinstance(part, Normalise | Scale):
        return 1 / part.std.min() if isinstance(part, Normalise) else abs(part.factor)
    return math.prod(map(estimate, part.children()), start=1.0)


def advance(net: Net) -> None:
    """One step of every power iteration."""
    for layer in weighted_layers(net):
        v = layer.get_buffer("power_vector")
        v.copy_(power_step(layer, v))
