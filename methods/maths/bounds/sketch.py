"""Gradient norms of all hidden units for the cost of a few passes: random directions are pushed through the network.

For networks on which rows for every unit on every pixel (methods/maths/bounds/rows.py) take too much memory.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from marginbench.methods.maths.bounds.linear import Affine, Ball, Path, Relaxation, parallel
from marginbench.methods.method import NotApplicable

WIDE = 50_000_000  # pixels times hidden units from which norms are estimated; ResNet-20 on CIFAR-10 has 580 million
PROJECTIONS = 50  # of the authors' code of Wong, Schmidt, Metzen, Kolter (NeurIPS 2018)
Relu = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # values [B, m] and directions [B, k, m] to those behind it


def push(path: Path, value: Tensor, directions: Tensor, relu: Relu) -> tuple[Tensor, Tensor]:
    """Values [B, n] and directions [B or 1, k, n] behind a path; `relu` is asked in the order of the path."""
    for depth, block in enumerate(path):
        if depth:
            value, directions = relu(value, directions)
        for part in block:
            if isinstance(part, Affine):
                value, directions = part.forward(value), part.linear(directions, part.weight)
            else:
                ends = [push(inner, value, directions, relu) for inner in part.paths]
                value, directions = ends[0][0] + ends[1][0], ends[0][1] + ends[1][1]
    return value, directions


def is_wide(path: Path, pixels: int) -> bool:
    """Whether rows of all hidden units on this many pixels are too many."""
    return pixels * _count_units(path, pixels)[0] > WIDE


def _count_units(path: Path, size: int) -> tuple[int, int]:
    """The hidden units of a path from `size` values on, and how many values are behind it."""
    units = 0
    for depth, block in enumerate(path):
        if depth:
            units += size
        for part in block:
            if isinstance(part, Affine):
                size = len(part.bias)
            else:
                (first, size), (second, _) = (_count_units(inner, size) for inner in part.paths)
                units += first + second
    return units, size


def too_wide(path: Path, pixels: int) -> NotApplicable | None:
    """Why exact rows of all hidden units are out of reach, or None."""
    if not is_wide(path, pixels):
        return None
    return NotApplicable(f"pixels times hidden units exceed {WIDE:,}: exact rows of all units take too much memory")


def estimated_bounds(path: Path, ball: Ball, generator: torch.Generator, count: int = PROJECTIONS) -> list[Relaxation]:
    """`parallel_relaxations`, with norms estimated by `count` projections (Wong et al., NeurIPS 2018, section 3.2).

    A unit moves by eps ||nu||_q within the ball, and by sum_k |nu_k| e_k with the errors e_k of the ReLUs before it. A
    sum of Cauchy variables with factors a_i has the median of absolute values sum_i |a_i|, one of normal variables
    the mean square sum_i a_i^2. So noise of that size at the pixels, and at the ReLUs, shows at every unit how far it
    moves. The bounds are estimates: a network may be trained on them, but not certified.
    """
    relaxations: list[Relaxation] = []
    centre = ball.centre()

    def cauchy(values: Tensor) -> Tensor:
        size = (1, count, values.shape[1])
        uniform = torch.rand(size, generator=generator, dtype=values.dtype, device=generator.device)
        return ((uniform - 0.5) * math.pi).tan()

    def relu(value: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        spread = noise[:, -count:].abs().median(1).values
        if ball.norm == "l2":
            spread = spread + (noise[:, :count].square().mean(1) + 1e-24).sqrt()
        line = parallel((value - spread, value + spread))
        relaxations.append(line)
        error = line.intercept / 2
        noise = noise * line.upper[:, None]
        moved = noise[:, -count:] + cauchy(value) * error[:, None]
        return value * line.upper + error, torch.cat([noise[:, :-count], moved], 1)

    if ball.norm == "linf":
        start = cauchy(centre) * ball.reach()[:, None]
    else:
        size = (1, count, centre.shape[1])
        normal = torch.randn(size, generator=generator, dtype=centre.dtype, device=generator.device)
        start = torch.cat([normal * ball.epsilon[:, :, None], torch.zeros_like(normal).expand_as(normal)], 1)
    push(path, centre, start, relu)
    return relaxations


def sampled_units(path: Path, x: Tensor, generator: torch.Generator, count: int = PROJECTIONS) -> tuple[Tensor, Tensor]:
    """Pre-activations [B, N] of all hidden units, and estimates of their squared gradients' norms [B, N].

    The squares along `count` random pixels, the same for all images, times n / count: without bias (Lee,
    Alvarez-Melis, Jaakkola, ICLR 2019, section 4.2, equation 10).
    """
    units: list[Tensor] = []
    squares: list[Tensor] = []
    pixels = x.shape[1]
    count = min(count, pixels)

    def relu(value: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        units.append(value)
        squares.append((directions.square().sum(1) * (pixels / count)).expand_as(value))
        active = (value > 0).to(value.dtype)
        return value * active, directions * active[:, None]

    axes = torch.randperm(pixels, generator=generator, device=generator.device)[:count]
    start = torch.zeros(1, count, pixels, dtype=x.dtype, device=x.device).scatter_(2, axes[None, :, None], 1.0)
    push(path, x, start, relu)
    return torch.cat(units, 1), torch.cat(squares, 1)
