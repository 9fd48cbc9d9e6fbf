"""Primal-dual proximal gradient descent (PDPGD): the perturbation and its multiplier play against each other."""

from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import ascent, lengths, linearise
from marginbench.benchmarks.attacks._proximal import shrink, step_share
from marginbench.benchmarks.attacks._starts import from_each, starting_points
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial
from marginbench.benchmarks.estimator import Query

BOUND = 3.0  # of the dual variable: neither player is ever silenced, sigmoid(3) = 0.95


@attack(minimum_norm=True)
def pdpgd(
    q: Query,
    *,
    steps: PositiveInt = 50,
    starts: PositiveInt = 5,
    learning_rate: PositiveFloat = 0.5,
    dual_rate: PositiveFloat = 0.5,
) -> Tensor:
    """Descent on the Lagrangian (1 - lambda) ||delta|| + lambda f(x + delta), ascent on its multiplier lambda.

    With f = z_y - z_r, r the rival with the largest logit, u the step of steepest descent of f of unit length,
    lambda = sigmoid(w), e the length of the closest adversarial delta, and eta_k falling along a cosine to 1 % of
    `learning_rate`, step k is

        w     <- w + dual_rate, where x + delta is still in class y, else w - dual_rate
        delta <- prox(delta + eta_k e lambda u), then cut to the box

    prox is that of t ||.||, with the t for which the norm falls by eta_k e (1 - lambda): the perturbation shrinks in
    L2, and its largest pixels are cut to one level in L-infinity. In L2 this is the paper's PDGD outside 0.

    After Matyasko and Chau, 2021, arXiv 2106.01538: the player of the multiplier sees success alone, the player of the
    perturbation the differences of the logits. The differences: of the gradient only the direction counts, and steps
    are shares of e, so that neither scale nor shift of the logits has an effect, in place of Adam and steps in pixels.
    f has no hinge: delta moves along the boundary from either side. A perturbation on a plateau, where the gradient is
    zero and the class is still y, goes back to the closest adversarial one. And there are several starts: x, where it
    has a gradient, and points behind the boundary on lines to other images (see `starting_points`).

    Args:
        steps: forward and backward passes per start.
        starts: x and lines to other images; the line to each class costs bisections, too.
        learning_rate: eta_0, a share of e.
        dual_rate: step of w, without unit.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    return from_each(q, partial(_descend, steps, learning_rate, dual_rate), *starting_points(q, starts)).point


def _descend(steps: int, learning_rate: float, dual_rate: float, q: Query, start: Tensor, rival: Tensor) -> Closest:
    """The closest point on the way from one start for each image, to one rival [B, 1]."""
    net, x, y, norm = q.net, q.x, q.y, q.norm
    original = x.flatten(1)
    delta, dual = start.flatten(1) - original, torch.zeros_like(original[:, 0])
    closest = Closest(x, norm)
    for step in range(steps):
        eta = learning_rate * step_share(step, steps)
        point = (original + delta).clamp(0, 1).view_as(x)
        gap, gradient, adversarial = linearise(net, point, y, rival)
        gap, gradient = gap[:, 0], gradient[:, 0]
        closest.offer(point, adversarial)
        unit, slope = ascent(gradient, norm)
        found = closest.distance.isfinite()
        scale = torch.where(
            found, closest.distance, lengths(delta, norm) + (gap.abs() / slope).clamp(max=original.shape[1])
        )
        dual = (dual + torch.where(adversarial, -dual_rate, dual_rate)).clamp(-BOUND, BOUND)
        share = dual.sigmoid()
        moved = delta + (eta * scale * share)[:, None] * unit
        moved = shrink(moved, eta * scale * (1 - share), norm)
        lost = found & ~adversarial & (gradient == 0).all(1)
        moved = torch.where(lost[:, None], shrink(closest.point.flatten(1) - original, eta * scale / 4, norm), moved)
        delta = (original + moved).clamp(0, 1) - original
    point = (original + delta).clamp(0, 1).view_as(x)
    closest.offer(point, is_adversarial(net, point, y))
    return closest
