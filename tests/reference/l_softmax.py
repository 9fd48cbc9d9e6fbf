"""L-Softmax by angles: arc cosine, multiple, cosine, one example at a time."""

import math

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def psi(theta: Tensor, m: int) -> Tensor:
    """(-1)^k cos(m theta) - 2k, theta a scalar tensor."""
    k = min(math.floor(m * theta.item() / math.pi), m - 1)
    sign = -1 if k % 2 else 1
    return sign * (m * theta).cos() - 2 * k


def loss(net: Net, x: Tensor, y: Tensor, *, m: int, annealing: float) -> Tensor:
    """Mean cross-entropy; `annealing` is lambda, `net` has `features` and `head.weight`."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        logits = []
        for k, w in enumerate(head_weight(net)):
            length = w.norm() * phi.norm()
            theta = torch.acos(w @ phi / length)
            value = (annealing * theta.cos() + psi(theta, m)) / (1 + annealing) if k == label else theta.cos()
            logits.append(length * value)
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
