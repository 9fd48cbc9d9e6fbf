"""Focal loss, one example at a time."""

from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, gamma: float) -> Tensor:
    """Mean of -(1 - p)^gamma log p at the label."""
    total = x.new_zeros(())
    for z, label in zip(net(x), y.tolist(), strict=True):
        p = z[label].exp() / z.exp().sum()
        total = total - (1 - p) ** gamma * p.log()
    return total / len(y)
