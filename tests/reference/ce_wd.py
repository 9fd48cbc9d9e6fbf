"""Weight decay written out: the penalty as a sum, and AdamW step by step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def penalty(weights: Sequence[Tensor]) -> Tensor:
    """1/2 of the sum of the squares of all entries."""
    total = weights[0].new_zeros(())
    for weight in weights:
        for entry in weight.flatten():
            total = total + entry**2
    return total / 2


def adamw(
    parameters: Sequence[Tensor], decays: Sequence[float], loss: Callable[[], Tensor], rate: float, steps: int
) -> None:
    """Loshchilov and Hutter, algorithm 2, with a constant rate: changes the parameters."""
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss(), parameters)
        with torch.no_grad():
            for p, decay, g, m, v in zip(parameters, decays, gradients, first, second, strict=True):
                p.mul_(1 - rate * decay)
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
