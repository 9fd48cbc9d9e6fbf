"""Proximal steps towards a shorter perturbation, in either norm, and how steps become shorter."""

import math

import torch
from torch import Tensor

from marginbench.methods import Norm

LEAST_SHARE = 0.01  # of the first step length, at the end


def shrink(delta: Tensor, amount: Tensor, norm: Norm) -> Tensor:
    """The proximal point of t ||.|| at delta [B, D], with the t for which its norm is `amount` [B] less, 0 at least.

    prox_{t ||.||}(v) = argmin_u t ||u|| + ||u - v||_2^2 / 2. In L2 it is v (1 - t / ||v||), and t is the amount; in
    L-infinity it is v clamped to [-c, c], with t = sum_i max(|v_i| - c, 0) (Parikh and Boyd, Proximal Algorithms, 2014,
    section 6.5).
    """
    if norm == "l2":
        share: Tensor = (1 - amount / delta.norm(dim=1).clamp(min=1e-12)).clamp(min=0)
        return delta * share[:, None]
    level = (delta.abs().amax(1) - amount).clamp(min=0)
    return torch.minimum(delta.abs(), level[:, None]) * delta.sign()


def step_share(step: int, steps: int) -> float:
    """The length of a step as a share of the first one: from 1 along a cosine to `LEAST_SHARE`."""
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return LEAST_SHARE + (1 - LEAST_SHARE) * cosine
