"""How sure a network is of a class, as log-odds less those of a guess.

Of the probability p of class j, log p - log((1 - p) / (K - 1)) = -log mean_{k != j} exp(z_k - z_j): the same order as
that of p, and no rounding to 1 where logits are large, or to 1 / K where they are tiny.
"""

import math

import torch
from torch import Tensor

from marginbench.methods import predicted_class
from marginbench.methods.method import UNDECIDED


def confidence(logits: Tensor) -> Tensor:
    """`log_odds` [B] of the largest of the logits [B, K]; NaN, which reaches no threshold, where none is."""
    winner = predicted_class(logits)
    return log_odds(logits, winner.clamp(min=0)[:, None]).masked_fill(winner == UNDECIDED, torch.nan)


def log_odds(logits: Tensor, index: Tensor) -> Tensor:
    """-log mean_{k != j} exp(z_k - z_j) for j = index [B, 1] of the logits [B, K]: [B]. Precise at any scale."""
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, index, value=False)
    gaps = (logits - logits.gather(1, index))[others].view(len(logits), -1)
    near = -gaps.clamp(-1, 1).expm1().mean(1).log1p()  # log(K - 1) would round small gaps away
    far = math.log(gaps.shape[1]) - gaps.logsumexp(1)
    return torch.where(gaps.abs().amax(1) < 1, near, far)
