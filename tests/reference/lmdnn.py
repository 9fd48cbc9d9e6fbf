"""Penalties of Sun et al. on the margins of the probabilities, one example at a time."""

from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, form: str, weight: float) -> Tensor:
    """Mean of cross-entropy plus weight times the penalty."""
    total = x.new_zeros(())
    for z, label in zip(net(x), y.tolist(), strict=True):
        powers = (z - z.max()).exp()
        p = powers / powers.sum()
        rivals = [k for k in range(len(z)) if k != label]
        if form == "C1":
            penalty = (1 - (p[label] - max(p[k] for k in rivals))) ** 2
        else:
            penalty = sum((1 - (p[label] - p[k])) ** 2 for k in rivals) / len(rivals)
        total = total - p[label].log() + weight * penalty
    return total / len(y)
