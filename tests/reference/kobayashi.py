"""Kobayashi's regulariser as half a symmetric divergence, one example at a time."""

import torch
from torch import Tensor

from marginbench.methods import Net


def regulariser(z: Tensor, label: int) -> Tensor:
    """(KL(q | u) + KL(u | q)) / 2 for q the softmax of the rivals' logits and u uniform."""
    rivals = torch.stack([z[k] for k in range(len(z)) if k != label])
    q = (rivals - rivals.max()).exp() / (rivals - rivals.max()).exp().sum()
    u = 1 / len(rivals)
    forward = sum((value * (value / u).log() for value in q), z.new_zeros(()))
    backward = sum((u * (u / value).log() for value in q), z.new_zeros(()))
    return (forward + backward) / 2


def loss(net: Net, x: Tensor, y: Tensor, *, weight: float, deg_logit: float) -> Tensor:
    """Mean of the cross-entropy with a lowered target plus weight times the regulariser."""
    total = x.new_zeros(())
    for z, label in zip(net(x), y.tolist(), strict=True):
        lowered = torch.stack([value - deg_logit if k == label else value for k, value in enumerate(z)])
        risk = (lowered - lowered[label]).exp().sum().log()
        total = total + risk + weight * regulariser(z, label)
    return total / len(y)
