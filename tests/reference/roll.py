"""ROLL, one image and one unit at a time, with gradients by automatic differentiation."""

import torch
from torch import Tensor, nn

from marginbench.methods import Net


def terms(net: Net, image: Tensor, hinge: float) -> tuple[list[Tensor], Tensor]:
    """One term per hidden unit, in order, and the logits."""
    image = image[None].clone().requires_grad_()
    found, value = [], net.normalise(image)
    for layer in net.body:
        if isinstance(layer, nn.ReLU):
            for unit in value.flatten():
                (slope,) = torch.autograd.grad(unit, image, retain_graph=True, create_graph=True)
                found.append((slope**2).sum() + hinge * (1 - unit.abs()).clamp_min(0))
        value = layer(value)
    return found, net.head(value)[0]


def loss(net: Net, x: Tensor, y: Tensor, *, weight: float, hinge: float, count: int) -> Tensor:
    """The objective with the `count` largest terms of every image."""
    total = x.new_zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        found, logits = terms(net, image, hinge)
        largest = sorted(found, key=lambda d: d.item())[-count:]
        total = total + logits.exp().sum().log() - logits[label] + weight * sum(largest) / count
    return total / len(y)
