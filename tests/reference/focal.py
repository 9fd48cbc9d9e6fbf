"""Focal loss, one example at a time."""


def loss(net, x, y, *, gamma):
    """Mean of -(1 - p)^gamma log p at the label."""
    total = 0.0
    for z, label in zip(net(x), y.tolist(), strict=True):
        p = z[label].exp() / z.exp().sum()
        total = total - (1 - p) ** gamma * p.log()
    return total / len(y)
