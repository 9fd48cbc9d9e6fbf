"""Projected gradient descent (PGD) with momentum from random points, in balls that shrink."""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import LARGEST, ascent, linearise, nearest_rivals
from marginbench.benchmarks.attacks._proximal import step_share
from marginbench.benchmarks.attacks._starts import RIVALS, boundary_starts, by_start
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial, tighten
from marginbench.benchmarks.estimator import Query
from marginbench.methods.maths.perturb import project, random_start

FIRST_STEP = 0.5  # of the radius; the last is `LEAST_SHARE` of that
HALVINGS = 10  # of the ray to the nearest point, after each round
LEAST_CUT = 0.002  # of the distance known, at the end


@attack(minimum_norm=True)
def pgd(
    q: Query,
    *,
    steps: PositiveInt = 30,
    rounds: PositiveInt = 12,
    targets: PositiveInt = 3,
    cut: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.75,
) -> Tensor:
    """Ascent on f = z_r - z_y in a ball of radius e, from a random point of it; then in a smaller ball, and so on.

    In each round there is a random start for each of the classes r with the largest logits at x, and one on the ray to
    the nearest point known, from which r is the rival with the largest logit at each point. With eta_k falling along a
    cosine from e / 2 to 1 % of it, step k is

        m     <- momentum m + grad f / ||grad f||,  ||.||_2 in L2, ||.||_1 in Linf
        delta <- project(delta + eta_k u) on the box, then on the ball of radius e,
                 u = m / ||m||_2 in L2, sign(m) in Linf

    e is the distance of the nearest adversarial point known, at first one on the line to another image (see
    `boundary_starts`), less a share that falls from `cut` to 0.2 %. Where no point is known, e is twice that of the
    round before, `q.epsilon` in the first.

    PGD is that of Madry et al., ICLR 2018, arXiv 1706.06083, its momentum that of Dong et al., CVPR 2018, arXiv
    1710.06081. Networks trained with one step of FGSM hide their boundaries from attacks that begin at x or at other
    images, where gradients lead astray, but not from those that begin at random points. Neither scale nor shift of the
    logits has an effect.

    Args:
        steps: forward and backward passes per start.
        rounds: balls, one after the other.
        targets: classes r that are followed from random points.
        cut: share of the distance known by which the first ball is smaller.
        momentum: how much of the mean gradient a step keeps.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    x, y, norm = q.x, q.y, q.norm
    closest = Closest(x, norm)
    for start in boundary_starts(q, 1):
        closest.offer(start, is_adversarial(q.net, start, y))
    rivals = [torch.full_like(y[:, None], LARGEST), *nearest_rivals(q.net, x, y, norm, RIVALS, targets).split(1, dim=1)]
    for turn in range(rounds):
        known, part = closest.distance, 1 - cut * (LEAST_CUT / cut) ** (turn / max(1, rounds - 1))
        radius = torch.where(known.isfinite(), part * known, q.epsilon * 2**turn)
        randoms = [(x + random_start(x, radius, norm, q.generator)).clamp(0, 1) for _ in rivals[1:]]
        starts = [x.lerp(closest.point, part), *randoms]
        for point, distance in by_start(q, partial(_climb, steps, momentum), starts, rivals, [radius] * len(rivals)):
            closest.offer(point, distance.isfinite())
        point, distance = tighten(q.net, x, closest.point, y, norm, HALVINGS)
        closest.offer(point, distance.isfinite())
    return closest.point


def _climb(steps: int, momentum: float, q: Query, start: Tensor, rival: Tensor, radius: Tensor) -> Closest:
    """The closest point on the way from one start for each image, to one rival [B, 1] or `LARGEST`."""
    original, closest = q.x.flatten(1), Closest(q.x, q.norm)
    delta, mean = start.flatten(1) - original, torch.zeros_like(original)
    for step in range(steps):
        point = (original + delta).clamp(0, 1).view_as(q.x)
        _, gradient, adversarial = linearise(q.net, point, q.y, rival)
        closest.offer(point, adversarial)
        size = gradient[:, 0].norm(p=2 if q.norm == "l2" else 1, dim=1).clamp(min=1e-12)
        mean = momentum * mean + gradient[:, 0] / size[:, None]
        stride = FIRST_STEP * step_share(step, steps) * radius
        moved = (original + delta + stride[:, None] * ascent(mean, q.norm)[0]).clamp(0, 1) - original
        delta = project(moved, radius, q.norm)  # the ball last: what is in the box stays there
    point = (original + delta).clamp(0, 1).view_as(q.x)
    closest.offer(point, is_adversarial(q.net, point, q.y))
    return closest
