"""Random directions: an attack so weak that a white-box attack that loses to it is broken."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial
from marginbench.benchmarks.estimator import Query


@attack(gradient=False, control=True)
def noise(q: Query, *, directions: PositiveInt = 8, radii: tuple[PositiveFloat, ...] = (1.0, 2.0, 4.0)) -> Tensor:
    """Walk along random directions and keep the closest adversarial point.

    Directions are uniform on the sphere for L2 and random signs for Linf, scaled to each radius and clamped
    to the box.

    Args:
        directions: per image.
        radii: in units of `q.epsilon`.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    x, norm = q.x, q.norm
    closest = Closest(x, norm)
    for _ in range(directions):
        draw = torch.randn(x.shape, generator=q.generator, device=x.device)
        unit = draw / draw.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if norm == "l2" else draw.sign()
        for radius in radii:
            point = (x + radius * q.epsilon * unit).clamp(0, 1)
            closest.offer(point, is_adversarial(q.net, point, q.y))
    return closest.point
