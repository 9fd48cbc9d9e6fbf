"""ArcFace by angles: arc cosine, shift, cosine, one example at a time."""

import math

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, s: float, m: float, easy_margin: bool = False) -> Tensor:
    """Mean cross-entropy of the shifted logits; `net` has `features` and `head.weight`."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        angles = [torch.acos(w @ phi / (w.norm() * phi.norm())) for w in head_weight(net)]
        logits = [s * angle.cos() for angle in angles]
        theta = angles[label]
        if easy_margin:
            target = (theta + m).cos() if theta < math.pi / 2 else theta.cos()
        else:
            target = (theta + m).cos() if theta + m < math.pi else theta.cos() - m * math.sin(m)
        logits[label] = s * target
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
