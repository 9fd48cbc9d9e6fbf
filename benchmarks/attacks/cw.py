"""Carlini and Wagner's attack, batched, with a search per image and a loss in pixels."""

import math

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks._linear import linearise, to_hyperplane, top_rivals
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, changes_class
from marginbench.benchmarks.estimator import Query
from marginbench.methods import Norm, logit_margin

EDGE = 1e-5  # share of the range by which a start on its border is drawn inside, where tanh has a slope


@attack(minimum_norm=True)
def cw(
    q: Query,
    *,
    steps: PositiveInt = 40,
    searches: PositiveInt = 5,
    learning_rate: PositiveFloat = 0.3,
    kappa: NonNegativeFloat = 0.0,
    rivals: PositiveInt = 10,
) -> Tensor:
    """Adam on w in x' = (1 + tanh w) / 2, which keeps x' in the box. In L2 it minimises

        ||x' - x||_2^2 + c max(f(x'), -kappa),  f = (z_y - max_{j != y} z_j) / s

    (Carlini and Wagner, S&P 2017, arXiv 1608.04644, section V), once for each value of a binary search over c: lower
    after a success, higher after a failure. Let d be the distance to the boundary of the linearised network in the
    box. s makes f(x) = d, so f is in pixels; then neither scale nor shift of the logits has an effect, and c starts
    near its value for a linear network, 2 d. w starts at the point of that boundary nearest to x, beyond it by 1 %,
    and not at x, which gave 4 % longer distances on digits. Adam's steps are a share of d.

    In L-infinity, where the paper changes its penalty in many rounds, x' is instead kept in the ball of radius r
    within the box, x' = l + (h - l) (1 + tanh w) / 2, only f is minimised, and the search is over r, from 1.2 d.

    torchattacks' CW is not used: it takes the maximum over logits multiplied by a mask, and so fails when they are
    negative.

    Args:
        steps: forward and backward passes for each value of c or r.
        searches: values of c or r.
        learning_rate: first step of Adam as a share of d; steps fall to 0 along a cosine.
        kappa: how far beyond the boundary f is followed, in pixels.
        rivals: classes with the largest logits among which the first boundary is chosen, one backward pass each.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    net, x, y, norm = q.net, q.x, q.y, q.norm
    start, gap, scale = _linear_start(net, x, y, norm, rivals)
    closest = Closest(x, norm)
    low, high = torch.zeros_like(gap), torch.full_like(gap, torch.inf)
    value = 3 * gap if norm == "l2" else 1.2 * gap
    for _ in range(searches):
        if norm == "l2":
            floor, ceiling, weight = torch.zeros_like(x), torch.ones_like(x), value
        else:
            radius = value.view(-1, 1, 1, 1)
            floor, ceiling, weight = (x - radius).clamp(min=0), (x + radius).clamp(max=1), torch.ones_like(value)
        middle = 2 * (start - floor) / (ceiling - floor).clamp(min=1e-12) - 1
        w = torch.atanh(middle.clamp(EDGE - 1, 1 - EDGE))
        span = ((ceiling - floor) * (1 - w.tanh().square()) / 2).flatten(1)  # pixels that w moves
        reach = span.norm(dim=1) if norm == "l2" else span.amax(1)
        stride = (learning_rate * gap / reach.clamp(min=1e-12)).clamp(max=0.5).view(-1, 1, 1, 1)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        success = torch.zeros_like(gap, dtype=torch.bool)
        for step in range(1, steps + 1):
            with torch.enable_grad():
                w = w.detach().requires_grad_()
                point = floor + (ceiling - floor) * (1 + w.tanh()) / 2
                logits = net(point)
                beyond = (logit_margin(logits.double(), y) / scale).float().clamp(min=-kappa)
                size = (point - x).flatten(1).square().sum(1) if norm == "l2" else torch.zeros_like(gap)
                total = (size + weight * beyond).sum() + 0 * w.sum()  # a graph, whatever the network ignores
                (gradient,) = torch.autograd.grad(total, w)
            found = changes_class(logits.detach(), y)
            closest.offer(point.detach().clamp(0, 1), found)
            success |= found
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            mean, square = mean.lerp(gradient, 0.1), square.lerp(gradient.square(), 0.001)
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            rate = stride * cosine * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            w = w.detach() - rate * mean / (square.sqrt() + 1e-12)
        if norm == "linf":
            high = torch.minimum(high, closest.distance)
        high, low = torch.where(success, torch.minimum(high, value), high), torch.where(success, low, value)
        value = torch.where(high.isfinite(), (low + high) / 2, 2 * value)
    return closest.point


def _linear_start(net: nn.Module, x: Tensor, y: Tensor, norm: Norm, rivals: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest point beyond the linearised boundary in the box, [B, C, H, W]; its distance [B]; the scale s [B].

    Where there is none, it is x, at distance 1.
    """
    order = top_rivals(net, x, y, rivals)
    gap, gradient, _ = linearise(net, x, y, order)
    delta, length = to_hyperplane(x.flatten(1), gradient, -1.01 * gap, norm)
    length, nearest = length.min(1)
    row, reachable = torch.arange(len(x), device=x.device), length.isfinite()
    start = x + (delta[row, nearest] * reachable[:, None]).view_as(x)
    length = length.where(reachable, 1.0).clamp(min=1e-6)
    with torch.no_grad():
        margin = logit_margin(net(x).double(), y)  # float64: logits of any size, divided before they are rounded
    scale = margin / length
    return start.clamp(0, 1), length, scale.where(scale.isfinite() & (scale > 0), 1.0)
