"""AM-Softmax and CosFace: the target cosine less a margin, one example at a time."""

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, s: float, m: float) -> Tensor:
    """Mean cross-entropy; `net` has `features` and `head.weight`."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        logits = [s * (w @ phi) / (w.norm() * phi.norm()) for w in head_weight(net)]
        logits[label] = logits[label] - s * m
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
