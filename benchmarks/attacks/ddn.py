"""Decoupled direction and norm (DDN): a sphere around x that shrinks on success and grows on failure."""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import ascent, linearise, nearest_rivals
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial
from marginbench.benchmarks.estimator import Query


@attack(minimum_norm=True)
def ddn(
    q: Query, *, steps: PositiveInt = 50, gamma: Annotated[float, Field(gt=0, lt=1)] = 0.05, rivals: PositiveInt = 10
) -> Tensor:
    """Direction and norm of the perturbation are separate: the direction follows the gradient, the norm success.

    With f = z_r - z_y, r the rival nearest to x in the linearised network, and a cosine schedule of alpha_k from 1 to
    0.01, step k is

        e     <- e (1 - gamma) if x + delta is adversarial, else e (1 + gamma)
        v     <- delta + alpha_k e u,  u = grad f / ||grad f||_2 in L2, sign(grad f) in Linf
        delta <- e v / ||v||_2 in L2, v clamped to [-e, e] in Linf, then cut to the box

    After Rony et al., CVPR 2019, arXiv 1811.09600, Algorithm 1, with these differences. Theirs is f =
    cross-entropy, whose gradient underflows once softmax saturates, and which follows the rivals with the largest
    logits: that gave 4 % longer distances on digits. Of the gradient only the direction matters, so neither scale
    nor shift of the logits has an effect. The first e is the distance to the
    linearised boundary, not 1, and steps are in units of e, not of pixels. Points are not rounded to 256 levels. The
    paper has no L-infinity version.

    Args:
        steps: forward and backward passes.
        gamma: change of the norm per step, without unit.
        rivals: classes with the largest logits among which r is chosen, one backward pass each.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    net, x, y, norm = q.net, q.x, q.y, q.norm
    original = x.flatten(1)
    rival = nearest_rivals(net, x, y, norm, rivals)
    delta = torch.zeros_like(original)
    radius = torch.zeros_like(original[:, 0])
    closest = Closest(x, norm)
    for step in range(steps):
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        point = (original + delta).clamp(0, 1).view_as(x)
        gap, gradient, adversarial = linearise(net, point, y, rival)
        gap, gradient = gap[:, 0], gradient[:, 0]
        closest.offer(point, adversarial)
        unit, dual = ascent(gradient, norm)
        if step == 0:
            radius = (gap.abs() / dual).clamp(max=original.shape[1])  # finite where the gradient is zero
        radius = radius * torch.where(adversarial, 1 - gamma, 1 + gamma)
        moved = delta + alpha * radius[:, None] * unit
        if norm == "l2":
            moved = moved * (radius / moved.norm(dim=1).clamp(min=1e-12))[:, None]
        else:
            moved = torch.minimum(moved.abs(), radius[:, None]) * moved.sign()
        delta = (original + moved).clamp(0, 1) - original
    point = (original + delta).clamp(0, 1).view_as(x)
    closest.offer(point, is_adversarial(net, point, y))
    return closest.point
