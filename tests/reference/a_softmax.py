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


def slopes(features: Tensor, weight: Tensor, y: Tensor, *, m: int, annealing: float) -> tuple[Tensor, Tensor]:
    """What the authors' layer sends back to features [B, d] and to unit class weights [K, d], by hand.

    psi has the slope a in c, and psi - c a is left for the feature's own direction; both coefficients together are
    scaled to length 1. The class weights get what a layer without a margin would send.
    """
    to_features, to_weight = torch.zeros_like(features), torch.zeros_like(weight)
    for i, label in enumerate(y.tolist()):
        phi, w = features[i], weight[label]
        c = w @ phi / phi.norm()
        logits = [v @ phi for v in weight]
        logits[label] = phi.norm() * (annealing * c + psi(c, m)) / (1 + annealing)
        p = torch.stack(logits).softmax(0)
        s0 = 1 if c >= 0 else -1
        s1 = 1 if abs(c) >= 0.5 else -1
        s3 = s0 * (1 if 2 * c**2 >= 1 else -1)
        a = (None, 1 + 0 * c, 4 * s0 * c, s1 * (12 * c**2 - 3), s3 * (32 * c**3 - 16 * c))[m]
        rest = (
            None,
            0 * c,
            -2 * s0 * c**2 - 1,
            -8 * s1 * c**3 + s0 * (1 + s1) - 2,
            s3 * (-24 * c**4 + 8 * c**2 + 1) + 2 * s0 + s3 - 3,
        )[m]
        assert a is not None and rest is not None
        b = rest / phi.norm()
        pull = (annealing * w + (a * w + b * phi) / (a**2 + b**2).sqrt()) / (1 + annealing)
        for k, v in enumerate(weight):
            slope = (p[k] - int(k == label)) / len(y)
            to_features[i] += slope * (pull if k == label else v)
            to_weight[k] += slope * phi
    return to_features, to_weight
