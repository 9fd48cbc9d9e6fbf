"""LDAM with deferred re-weighting, one example at a time."""

from collections.abc import Sequence

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def margins(counts: Sequence[int], max_m: float) -> list[float]:
    """One margin per class: proportional to n^(-1/4), the largest is max_m."""
    raw = [n**-0.25 for n in counts]
    return [max_m * value / max(raw) for value in raw]


def class_weights(counts: Sequence[int], beta: float) -> list[float]:
    """Inverse effective numbers of examples that sum to the number of classes."""
    raw = [1 / sum(beta**i for i in range(n)) for n in counts]  # (1 - beta^n) / (1 - beta) as a sum
    return [len(counts) * value / sum(raw) for value in raw]


def loss(net: Net, x: Tensor, y: Tensor, *, s: float, counts: Sequence[int], max_m: float, beta: float) -> Tensor:
    """Weighted mean of the cross-entropies; beta 0 gives all classes the weight 1."""
    shift, weights = margins(counts, max_m), class_weights(counts, beta)
    total, weight = x.new_zeros(()), 0.0
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        logits = [s * (w @ phi) / (w.norm() * phi.norm()) for w in head_weight(net)]
        logits[label] = logits[label] - s * shift[label]
        total = total + weights[label] * torch.stack([z - logits[label] for z in logits]).exp().sum().log()
        weight = weight + weights[label]
    return total / weight
