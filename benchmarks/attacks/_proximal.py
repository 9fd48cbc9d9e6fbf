"""Proximal steps towards a shorter perturbation, in either norm."""

import torch
from torch import Tensor

from marginbench.methods import Norm


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
