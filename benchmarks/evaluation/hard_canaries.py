"""Networks on which the gradient at the image leads astray: how strong is an attack, and what are restarts worth?"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marginbench.benchmarks.evaluation.canary import Canary, labelled
from marginbench.methods import NORMS, Net, Norm

POINTS = 32
SIZE = 8  # pixels of a side
CRESTS = 6  # of the ripples
HEIGHT = 0.06  # of a ripple, in means of pixels
GRID = 200_001


def ripples() -> Canary:
    """Many local maxima: on the left half of the image class 1 needs light, and on the right half the right grey.

    With the means u and v of the halves, z_1 - z_0 = u + HEIGHT wave(v) - level. The wave rises and falls CRESTS times
    between 0 and 1, so steeply that the gradient is mostly that of v. Moving a mean by s costs s in L-infinity, and
    s sqrt(32) in L2: the margin is the least of max(|r|, |s|), or of sqrt(32 (r^2 + s^2)), over all s, with
    r = level - u - HEIGHT wave(v + s), or 0 where that has the other sign than at s = 0.
    """
    stream = torch.Generator().manual_seed(21)
    pixels = SIZE * SIZE
    left = torch.zeros(SIZE, SIZE)
    left[:, : SIZE // 2] = 2 / pixels
    kinks = torch.arange(2 * CRESTS) / (2 * CRESTS)
    level = 0.7
    slope = 2 * CRESTS  # of the wave
    first, head = nn.Linear(pixels, 1 + 2 * CRESTS), nn.Linear(1 + 2 * CRESTS, 2)
    with torch.no_grad():
        first.weight.copy_(torch.cat([left.flatten()[None], (2 / pixels - left).flatten().expand(2 * CRESTS, -1)]))
        first.bias.copy_(torch.cat([torch.zeros(1), -kinks]))
        turns = slope * torch.tensor([1.0] + [(-1) ** k * 2.0 for k in range(1, 2 * CRESTS)])
        head.weight.copy_(torch.stack([torch.zeros(1 + 2 * CRESTS), torch.cat([torch.ones(1), HEIGHT * turns])]))
        head.bias.copy_(torch.tensor([level, 0.0]))
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten(), first, nn.ReLU()), head).eval()
    x = torch.rand(POINTS, 1, SIZE, SIZE, generator=stream) * 0.3 + 0.35
    x = x + 0.1 * torch.rand(POINTS, 1, 1, 1, generator=stream) + torch.linspace(0, 0.3, POINTS).view(-1, 1, 1, 1)
    data = labelled(net, (255 * x).round().to(torch.uint8))
    images = data.test.images(slice(None)).double()
    u, v = images[..., : SIZE // 2].mean((1, 2, 3)), images[..., SIZE // 2 :].mean((1, 2, 3))
    move = torch.linspace(-0.4, 0.4, GRID, dtype=torch.float64)
    exact: dict[Norm, Tensor] = {}
    for norm in NORMS:
        least = []
        for a, b in zip(u, v, strict=True):
            wave = 1 - ((b + move) * 2 * CRESTS % 2 - 1).abs()
            gap = level - a - HEIGHT * wave
            rest = (gap * gap[GRID // 2].sign()).clamp(min=0)
            least.append((torch.maximum(rest, move.abs()) if norm == "linf" else 32**0.5 * rest.hypot(move)).min())
        exact[norm] = torch.stack(least)
    return Canary("ripples", net, data, exact, tolerance=1e-3, reach=1.2, searched=True, doubts=None)


@dataclass(frozen=True)
class Lottery:
    """Images [N, 1, 5, 5] that an attack moves across the boundary only from a start on the lucky side.

    With s the change of the middle pixel, in units of the radius, z_1 - z_0 = max(-s - 1.5, 2 s - 1.6) and z_2, z_3
    stay far below. At the image the gradient leads to s < 0, where the ball ends first; s >= 0.8 is adversarial.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    epsilon: float


def lottery(epsilon: float = 0.2) -> Lottery:
    """32 images with random pixels around a grey one."""
    offset = 10.0  # keeps a ReLU on
    first, head = nn.Linear(25, 2), nn.Linear(2, 4)
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, 12] = torch.tensor([-1.0, 3.0]) / epsilon
        first.bias.copy_(torch.tensor([-1.5 + offset, -0.1]) - first.weight[:, 12] / 2)
        head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
        head.bias.copy_(torch.tensor([0.0, -offset, -4.0, -5.0]))
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), head).eval().requires_grad_(False)
    x = torch.rand(POINTS, 1, 5, 5, generator=torch.Generator().manual_seed(22))
    x[:, 0, 2, 2] = 0.5
    return Lottery(net, x, torch.zeros(POINTS, dtype=torch.int64), epsilon)
