"""ALMA, an augmented Lagrangian attack: one multiplier per image, and a penalty that grows where it must."""

from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks._linear import ascent, current_rivals, lengths
from marginbench.benchmarks.attacks._proximal import shrink, step_share
from marginbench.benchmarks.attacks._starts import from_each, starting_points
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, attached, changes_class, distance
from marginbench.benchmarks.estimator import Query
from marginbench.methods import logit_margin

MEMORY = 0.9  # of the multiplier, and of the size of the gradients
CHECK, PROGRESS, GROWTH = 10, 0.95, 1.2  # every so many steps: the constraint must fall to this, else penalty x this
MOST = 1e6  # multiplier and penalty
LEAST_SLOPE = 1e-3  # of c, per d: below it, the start is on a plateau, and mu begins at 1 as in the paper


@attack(minimum_norm=True)
def alma(q: Query, *, steps: PositiveInt = 50, starts: PositiveInt = 5, learning_rate: PositiveFloat = 0.5) -> Tensor:
    """Descent on D(delta) + P(c(x + delta); rho, mu), and a running mean of P' as the next multiplier mu.

        D = ||delta||^2 / d^2,  c = (z_y - z_r) / (s d),
        P(c) = mu c + mu rho c^2 + rho^2 c^3 / 6 for c >= 0, else mu c / (1 - rho c)

    r is the rival with the largest logit, d the distance of the nearest start that is not x, s d the margin of the
    logits at x: then c is 1 at x and 0 on the boundary, and neither scale nor shift of the logits has an effect.
    mu <- 0.9 mu + 0.1 P'(c) after each step; every 10 steps rho grows by 1.2 where no point was adversarial and c has
    not fallen by 5 %. mu begins where D and P balance at the start, rho at 1. Steps are shares of d, from learning_rate
    to 1 % of it.

    After Rony, Granger, Pedersoli and Ben Ayed, ICCV 2021, arXiv 2011.11857, Algorithm 1, with these differences. Their
    c is a difference of logits divided by another (DLR), whose denominator vanishes where three classes tie, and which
    needs four classes. Their RMSProp has a size per pixel, this one a size per image, so that steps follow the norm.
    They start at x, where certified networks may have no gradient, with mu = 1; this has several starts, as PDPGD (see
    `starting_points`). The paper has no L-infinity version: there the step on P follows the signs of the gradient, and
    that on D is proximal, as in PDPGD; in L2 the two are the gradient step.

    Args:
        steps: forward and backward passes per start.
        starts: x and lines to other images.
        learning_rate: first step as a share of d.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    points, rivals = starting_points(q, starts)
    far = torch.stack([distance(point.double() - q.x.double(), q.norm) for point in points])
    unit = far.masked_fill(far == 0, torch.inf).amin(0)
    unit = unit.where(unit.isfinite(), q.epsilon)  # x is the only start
    return from_each(q, partial(_descend, steps, learning_rate), points, rivals, [unit] * len(points)).point


def _descend(steps: int, learning_rate: float, q: Query, start: Tensor, rival: Tensor, unit_length: Tensor) -> Closest:
    """The closest point on the way from one start for each image, to one rival [B, 1]."""
    x, y, norm = q.x, q.y, q.norm
    original, closest = x.flatten(1), Closest(x, norm)
    with torch.no_grad():
        margin = logit_margin(q.net(x).double(), y)
    margin = margin.where((margin > 0) & margin.isfinite(), 1.0)
    delta = start.flatten(1) - original
    multiplier, penalty = torch.ones_like(unit_length), torch.ones_like(unit_length)
    mean_square = torch.zeros_like(unit_length)
    success, before = torch.zeros_like(y, dtype=torch.bool), torch.full_like(unit_length, torch.inf)
    for step in range(steps + 1):
        point = (original + delta).clamp(0, 1).view_as(x)
        violation, gradient, adversarial = _constraint(q.net, point, y, margin, rival)
        closest.offer(point, adversarial)
        unit, slope = ascent(-gradient * unit_length[:, None], norm)
        size = lengths(delta, norm) / unit_length
        if step == 0:
            # Where the boundary is reached, the pulls of D and c balance; before it, as in a linear network.
            balance = 2 * torch.maximum(size, violation / slope) / slope
            multiplier = balance.where(slope > LEAST_SLOPE, 1.0).clamp(1 / MOST, MOST)
        weight = penalty_slope(violation, penalty, multiplier)
        push, pull = weight * slope, 2 * size
        mean_square = mean_square.lerp(torch.maximum(push, pull).square(), 1 - MEMORY if step else 1.0)
        stride = learning_rate * step_share(step, steps) * unit_length / mean_square.sqrt()
        moved = shrink(delta + (stride * push)[:, None] * unit, stride * pull, norm)
        delta = (original + moved).clamp(0, 1) - original
        multiplier = multiplier.lerp(weight, 1 - MEMORY).clamp(1 / MOST, MOST)
        success |= adversarial
        if step % CHECK == CHECK - 1:
            stalled = ~success & (violation > PROGRESS * before)
            penalty = torch.where(stalled, penalty * GROWTH, penalty).clamp(max=MOST)
            success, before = torch.zeros_like(success), violation
    return closest


def penalty_slope(c: Tensor, penalty: Tensor, multiplier: Tensor) -> Tensor:
    """P'(c) [B] of the penalty in `alma`: mu at 0, positive and growing everywhere."""
    above = multiplier * (1 + 2 * penalty * c) + (penalty * c).square() / 2
    below = multiplier / (1 - penalty * c.clamp(max=0)).square()
    return torch.where(c >= 0, above, below).clamp(max=MOST)


def _constraint(
    net: nn.Module, point: Tensor, y: Tensor, margin: Tensor, rival: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """c [B] and its gradient [B, D] in float32, 0 where they are not finite, and whether points are adversarial."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        logits = attached(net, point)
        against = current_rivals(logits.detach(), y, rival)
        gap = logits.double().gather(1, y[:, None]) - logits.double().gather(1, against)
        violation = (gap[:, 0] / margin).float()
        (gradient,) = torch.autograd.grad(violation.sum(), point)
    violation = violation.detach().nan_to_num(0.0, 0.0, 0.0).clamp(-MOST, MOST)
    return violation, gradient.flatten(1).nan_to_num(0.0, 0.0, 0.0), changes_class(logits.detach(), y)
