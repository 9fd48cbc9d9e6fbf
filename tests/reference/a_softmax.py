"""A-Softmax by angles, in the closed form of each m, one example at a time."""

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def psi(c: Tensor, m: int) -> Tensor:
    """The target for c = cos(theta), a scalar tensor; s0 .. s3 are signs."""
    s0 = 1 if c >= 0 else -1
    if m == 1:
        return c
    if m == 2:
        return 2 * s0 * c**2 - 1
    if m == 3:
        s1 = 1 if abs(c) >= 0.5 else -1
        return s1 * (4 * c**3 - 3 * c) + s0 * (1 + s1) - 2
    s3 = s0 * (1 if 2 * c**2 >= 1 else -1)
    return s3 * (8 * c**4 - 8 * c**2 + 1) + 2 * s0 + s3 - 3


def loss(net: Net, x: Tensor, y: Tensor, *, m: int, annealing: float) -> Tensor:
    """Mean cross-entropy; `annealing` is lambda, `net` has `features` and `head.weight`."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        cosines = [w @ phi / (w.norm() * phi.norm()) for w in head_weight(net)]
        logits = [phi.norm() * c for c in cosines]
        target = (annealing * cosines[label] + psi(cosines[label], m)) / (1 + annealing)
        logits[label] = phi.norm() * target
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
