"""Cross-entropy of the hardest examples, by sorting."""

from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, count: int) -> Tensor:
    """Mean of the `count` largest cross-entropies of the batch."""
    losses = [(z - z[label]).exp().sum().log() for z, label in zip(net(x), y.tolist(), strict=True)]
    hardest = sorted(losses, key=lambda value: -value.item())[:count]
    return sum(hardest, x.new_zeros(())) / count
