"""L-Softmax by angles: arc cosine, multiple, cosine, one example at a time."""

import math

import torch


def psi(theta, m):
    """(-1)^k cos(m theta) - 2k, theta a scalar tensor."""
    k = min(math.floor(m * theta.item() / math.pi), m - 1)
    return (-1) ** k * (m * theta).cos() - 2 * k


def loss(net, x, y, *, m, annealing):
    """Mean cross-entropy; `annealing` is lambda, `net` has `features` and `head.weight`."""
    total = 0.0
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        logits = []
        for k, w in enumerate(net.head.weight):
            length = w.norm() * phi.norm()
            theta = torch.acos(w @ phi / length)
            value = (annealing * theta.cos() + psi(theta, m)) / (1 + annealing) if k == label else theta.cos()
            logits.append(length * value)
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
