"""MMR, one image and one unit at a time, with Jacobians by automatic differentiation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marginbench.methods import Net
from marginbench.methods.facts import Norm


def distances(net: Net, image: Tensor, norm: Norm) -> tuple[list[Tensor], Tensor, Callable[[Tensor], Tensor]]:
    """Signed switch values over dual norms of all units, logits, and the rows of the logits' Jacobian."""
    power = 1 if norm == "linf" else 2
    image = image[None].clone().requires_grad_()
    units, value = [], net.normalise(image)
    for layer in net.body:
        if isinstance(layer, nn.ReLU):
            units += list(value.flatten())
        value = layer(value)
    logits = net.head(value)[0]

    def slope(scalar: Tensor) -> Tensor:
        (row,) = torch.autograd.grad(scalar, image, retain_graph=True, create_graph=True)
        return row.flatten()

    lengths = [slope(u).norm(p=power) for u in units]
    return [u.abs() / n if n > 1e-12 else u.abs() / 1e-12 for u, n in zip(units, lengths, strict=True)], logits, slope


def planes(net: Net, image: Tensor, label: int, norm: Norm) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Signed distances from the planes between the label and every other class."""
    units, logits, slope = distances(net, image, norm)
    found = []
    for j in range(len(logits)):
        if j != label:
            gap = logits[label] - logits[j]
            found.append(gap / slope(gap).norm(p=1 if norm == "linf" else 2).clamp_min(1e-12))
    return units, found, logits


def loss(net: Net, x: Tensor, y: Tensor, *, gamma: float, weight: float, count: int, norm: Norm) -> Tensor:
    """The objective with the `count` nearest units."""
    total = x.new_zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        units, others, logits = planes(net, image, label, norm)
        total = total + logits.exp().sum().log() - logits[label]
        nearest = sorted(units, key=lambda d: d.item())[:count]
        total = total + weight * sum((1 - d / gamma).clamp_min(0) for d in nearest) / max(len(nearest), 1)
        total = total + weight * sum((1 - d / gamma).clamp_min(0) for d in others) / len(logits)
    return total / len(y)
