"""Magnitude masks by sorting, and plain gradient descent that keeps pruned weights at zero."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def mask(weight: Tensor, sparsity: float) -> Tensor:
    """0 at the round(sparsity * n) entries of smallest magnitude, 1 elsewhere."""
    values = [abs(entry) for entry in weight.flatten().tolist()]
    order = sorted(range(len(values)), key=values.__getitem__)
    gone = set(order[: round(sparsity * len(values))])
    return torch.tensor([0.0 if i in gone else 1.0 for i in range(len(values))], dtype=weight.dtype).view_as(weight)


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    rates: Sequence[float],
    momentum: float,
    masks_after: Mapping[int, float],
) -> None:
    """Steps of gradient descent at the given rates; changes the parameters.

    masks_after: step number to sparsity, pruned after that many steps; -1 gives every weight back.
    Pruned weights and their gradients are zero. Parameters of one dimension are never pruned.
    """
    masks = [torch.ones_like(p) for p in parameters]
    velocity = [torch.zeros_like(p) for p in parameters]
    for number, rate in enumerate(rates, start=1):
        gradients = torch.autograd.grad(loss(), parameters)
        with torch.no_grad():
            for k, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                velocity[k] = momentum * velocity[k] + masks[k] * gradient
                p.sub_(masks[k] * rate * velocity[k])
                if number in masks_after and p.dim() > 1:
                    sparsity = masks_after[number]
                    masks[k] = torch.ones_like(p) if sparsity < 0 else mask(p, sparsity)
                p.mul_(masks[k])
