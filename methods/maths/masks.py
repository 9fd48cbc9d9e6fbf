"""Masks on the weights of a network, for pruning. They are buffers, so that checkpoints hold them."""

import torch
from torch import Tensor, nn

from marginbench.methods.net import Net


def add_masks(net: Net) -> None:
    """Give every weight matrix or kernel of the network a mask of ones; biases and other vectors get none."""
    for index, weight in enumerate(_weights(net)):
        net.register_buffer(f"mask_{index}", torch.ones_like(weight))


def masked_weights(net: Net) -> list[tuple[nn.Parameter, Tensor]]:
    """Every masked weight with its mask, in the order of the network's parameters."""
    return [(weight, net.get_buffer(f"mask_{index}")) for index, weight in enumerate(_weights(net))]


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """A mask like the weight: 0 at the round(sparsity * n) of its n entries nearest to zero, 1 elsewhere."""
    nearest = weight.abs().flatten().argsort(stable=True)[: round(sparsity * weight.numel())]
    return torch.ones_like(weight).flatten().index_fill(0, nearest, 0.0).view_as(weight)


def _weights(net: Net) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.dim() > 1]
