"""Triplet loss, one pair at a time."""

from torch import Tensor

from marginbench.methods import Net


def triplet(features: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Mean over the pairs of one class of max(0, d_ap - d_an + alpha), n as described for the method."""
    embedding = [phi / phi.norm() for phi in features]
    labels, terms = y.tolist(), []
    for a, anchor in enumerate(embedding):
        negatives = [((anchor - other) ** 2).sum() for n, other in enumerate(embedding) if labels[n] != labels[a]]
        for p, positive in enumerate(embedding):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            near = ((anchor - positive) ** 2).sum()
            farther = [d for d in negatives if d > near]
            rival = min(farther) if farther else max(negatives)
            terms.append(max(0 * near, near - rival + alpha))
    return sum(terms) / len(terms) if terms else 0 * features.sum()


def loss(net: Net, x: Tensor, y: Tensor, *, alpha: float, weight: float) -> Tensor:
    """Mean cross-entropy plus weight times the triplet term."""
    total = x.new_zeros(())
    for z, label in zip(net(x), y.tolist(), strict=True):
        total = total + (z - z[label]).exp().sum().log()
    return total / len(y) + weight * triplet(net.features(x), y, alpha)
