"""Optimal margin distribution loss, one example at a time."""

from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, theta: float, mu: float, weight_penalty: float) -> Tensor:
    """Squared distances of the output margins from the band [1 - theta, 1 + theta], plus the penalty."""
    total = x.new_zeros(())
    for z, label in zip(net(x), y.tolist(), strict=True):
        margin = z[label] - max(z[k] for k in range(len(z)) if k != label)
        if margin < 1 - theta:
            total = total + (1 - theta - margin) ** 2
        elif margin > 1 + theta:
            total = total + mu * (margin - 1 - theta) ** 2
    squares = sum((value**2 for value in head_weight(net).flatten()), x.new_zeros(()))
    return total / len(y) / (1 - theta) ** 2 + weight_penalty * squares
