"""DeepFool in the box, with refinement: to the nearest linearised boundary, then back along it."""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import linearise, to_hyperplane, top_rivals
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial
from marginbench.benchmarks.estimator import Query


@attack(minimum_norm=True)
def deepfool(
    q: Query,
    *,
    steps: PositiveInt = 8,
    rivals: PositiveInt = 10,
    keep: PositiveInt = 3,
    overshoot: NonNegativeFloat = 0.02,
) -> Tensor:
    """Cross the nearest boundary of the linearised network, exactly within [0, 1].

    With f_r = z_r - z_y, each step solves, for every rival r still in play,

        min ||x' - start||  subject to  f_r(x_k) + <grad f_r(x_k), x' - x_k> >= 0,  x' in [0, 1]^D

    and moves to the nearest solution. Until the first success, `start` is the iterate x_k (Moosavi-Dezfooli
    et al., CVPR 2016, arXiv 1511.04599, with the box added). Afterwards it is the image x: x_k is then near
    the boundary, and the point of its tangent plane closest to x is the next guess of the boundary point
    closest to x (as in FAB, Croce and Hein, ICML 2020, arXiv 1907.02044). Before the first success such steps
    can run in circles.

    The hyperplane is overshot by a share of its offset from `start`, ten times less after each success (down
    to 1e-6), ten times more after each failure (up to `overshoot`). The first step thus solves a linear
    network up to the overshoot, and four more solve it to 1e-5 where pixels are held by the box.

    Args:
        steps: linearisations.
        rivals: classes with the largest logits considered in the first step; one backward pass each.
        keep: the nearest of them by linearised distance, considered in the steps after it.
        overshoot: first and largest share, without unit.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    net, x, y, norm = q.net, q.x, q.y, q.norm
    original = x.flatten(1)
    row = torch.arange(len(x), device=x.device)
    order = top_rivals(net, x, y, rivals)
    closest, point = Closest(x, norm), x
    share = torch.full_like(original[:, 0], overshoot)
    for step in range(steps):
        gap, gradient, _ = linearise(net, point, y, order)
        iterate = point.flatten(1)
        start = torch.where(closest.distance[:, None].isfinite(), original, iterate)
        offset = (gradient * (iterate - start)[:, None]).sum(2) - gap
        delta, length = to_hyperplane(start, gradient, offset + share[:, None] * offset.abs(), norm)
        nearest = length.argmin(1)
        reachable = length[row, nearest].isfinite()
        moved = torch.where(reachable[:, None], start + delta[row, nearest], iterate)
        point = moved.clamp(0, 1).view_as(x)
        adversarial = is_adversarial(net, point, y)
        closest.offer(point, adversarial)
        share = torch.where(adversarial, (share / 10).clamp(min=1e-6), (share * 10).clamp(max=overshoot))
        if step == 0:
            order = order.gather(1, length.topk(min(keep, order.shape[1]), dim=1, largest=False).indices)
    return closest.point
