"""Mixup with a given share and given partners, one pair at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, share: float, partners: Sequence[int]) -> Tensor:
    """Mean of share * CE(y_i) + (1 - share) * CE(y_partner) at share * x_i + (1 - share) * x_partner."""
    total = x.new_zeros(())
    for i, j in enumerate(partners):
        logits = net((share * x[i] + (1 - share) * x[j])[None])[0]
        normaliser = torch.log(torch.exp(logits - logits.max()).sum()) + logits.max()
        total = total + share * (normaliser - logits[y[i]]) + (1 - share) * (normaliser - logits[y[j]])
    return total / len(x)
