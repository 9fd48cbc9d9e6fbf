"""Random directions: an attack so weak that a white-box attack that loses to it is broken."""

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import Closest, is_adversarial
from marginbench.methods import Norm


def noise(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    epsilon: float,
    reference: Tensor,
    generator: torch.Generator,
    directions: int = 8,
    radii: tuple[float, ...] = (1.0, 2.0, 4.0),
) -> Tensor:
    """Walk along random directions and keep the closest adversarial point.

    Directions are uniform on the sphere for L2 and random signs for Linf, scaled to each radius and clamped
    to the box.

    Args:
        epsilon: unit of the radii, in pixels of [0, 1].
        reference: unused; the signature is common to all attacks.
        generator: source of the directions, on the device of x.
        directions: per image.
        radii: multiples of epsilon.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    closest = Closest(x, norm)
    for _ in range(directions):
        draw = torch.randn(x.shape, generator=generator, device=x.device)
        unit = draw / draw.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if norm == "l2" else draw.sign()
        for radius in radii:
            point = (x + radius * epsilon * unit).clamp(0, 1)
            closest.offer(point, is_adversarial(net, point, y))
    return closest.point
