"""Optimal margin distribution loss, one example at a time."""


def loss(net, x, y, *, theta, mu, weight_penalty):
    """Squared distances of the output margins from the band [1 - theta, 1 + theta], plus the penalty."""
    total = 0.0
    for z, label in zip(net(x), y.tolist(), strict=True):
        margin = z[label] - max(z[k] for k in range(len(z)) if k != label)
        if margin < 1 - theta:
            total = total + (1 - theta - margin) ** 2
        elif margin > 1 + theta:
            total = total + mu * (margin - 1 - theta) ** 2
    squares = sum(value**2 for value in net.head.weight.flatten())
    return total / len(y) / (1 - theta) ** 2 + weight_penalty * squares
