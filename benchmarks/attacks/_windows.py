"""The windows of Square: where an image changes in a query, and how. Andriushchenko et al., ECCV 2020, Algorithms 2, 3.

All functions take uniform numbers u [N, K], a row for each of N images, and use its columns from the left.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from marginbench.methods import Norm

TILES = 5  # along a side, of the first perturbation in L2
LEAST_L2 = 3  # pixels of a window's side
TINY = 1e-12

Shape = tuple[int, int, int]


class Windows(NamedTuple):
    """How Square moves in one norm."""

    start: Callable[[Tensor, float, Tensor], Tensor]
    """(x, epsilon, u): the first points [N, C, H, W], in the ball of that radius and in the box."""
    start_numbers: Callable[[Shape], int]  # K
    move: Callable[[Tensor, Tensor, float, float, Tensor], Tensor]
    """(x, point, epsilon, share, u): the points with other windows of this share of the pixels."""
    move_numbers: Callable[[Shape], int]  # K


def stripes(x: Tensor, epsilon: float, u: Tensor) -> Tensor:
    """x +- epsilon, with a sign for each column of each channel: 1 - 2 [u < 1/2]."""
    channels, width = x.shape[1], x.shape[3]
    return (x + epsilon * _signs(u, x).view(-1, channels, 1, width)).clamp(0, 1)


def recolour(x: Tensor, point: Tensor, epsilon: float, share: float, u: Tensor) -> Tensor:
    """One window, moved by 2 epsilon up or down in each channel, as far as ball and box allow."""
    height, width = x.shape[2:]
    side = _side(share, height, width)
    inside = _mask(_corner(u[:, :2], height, width, side), height, width, side).to(x)
    moved = point + 2 * epsilon * _signs(u[:, 2:], x)[:, :, None, None] * inside[:, None]
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    return torch.minimum(torch.maximum(moved, low), high)


def tiles(x: Tensor, epsilon: float, u: Tensor) -> Tensor:
    """As many tiles as fit around the middle, 5 or more along a side, each eta with signs, in all of length epsilon."""
    channels, (height, width) = x.shape[1], x.shape[2:]
    corners, side = _grid(height, width)
    delta, numbers = torch.zeros_like(x), u.view(len(x), len(corners), channels + 1)
    for (top, left), one in zip(corners, numbers.unbind(1), strict=True):
        tile = _signs(one[:, 1:], x)[:, :, None] * _turned(side, one[:, 0], x)[:, None]
        delta[:, :, top : top + side, left : left + side] = tile.view(-1, channels, side, side)
    return (x + epsilon * _unit(delta)).clamp(0, 1)


def shift(x: Tensor, point: Tensor, epsilon: float, share: float, u: Tensor) -> Tensor:
    """One window gets the length of another one, and what is left of epsilon."""
    channels, (height, width) = x.shape[1], x.shape[2:]
    side = min(_odd(max(_side(share, height, width), LEAST_L2)), height, width)
    corner, other = _corner(u[:, :2], height, width, side), _corner(u[:, 2:4], height, width, side)
    second = _mask(other, height, width, side).flatten(1)[:, None]
    both = _mask(corner, height, width, side).flatten(1)[:, None] | second
    delta = (point - x).flatten(2)  # [N, C, H * W]
    index = _pixels(corner, width, side)[:, None].expand(-1, channels, -1)
    before = delta.gather(2, index)
    spare = (epsilon**2 - delta.flatten(1).square().sum(1)).clamp(min=0)[:, None, None]
    length = (spare / channels + (delta * both).square().sum(2, keepdim=True)).sqrt()
    tile = _signs(u[:, 5:], x)[:, :, None] * _turned(side, u[:, 4], x)[:, None]
    new = tile + before / (TINY + before.norm(dim=2, keepdim=True))
    new = length * new / (TINY + new.norm(dim=2, keepdim=True))
    moved = (delta * ~second).scatter(2, index, new).view_as(x)
    return (x + epsilon * _unit(moved)).clamp(0, 1)


WINDOWS: dict[Norm, Windows] = {
    "linf": Windows(stripes, lambda s: s[0] * s[2], recolour, lambda s: 2 + s[0]),
    "l2": Windows(tiles, lambda s: len(_grid(*s[1:])[0]) * (s[0] + 1), shift, lambda s: 5 + s[0]),
}


@cache
def eta(side: int) -> Tensor:
    """[side, side] float32 of length 1: a hill in the upper half, a hollow in the lower one.

    A hill of a x b pixels is sum_{k = m}^{M} 1 / (k + 1)^2 at pixel (i, j), with m = max(|i - a'|, |j - b'|), a' and b'
    the integer parts of a / 2 and b / 2, and M the larger of them; divided by its length.
    """
    halves = [_hill(side // 2, side), -_hill(side - side // 2, side)]
    whole = torch.cat([half / half.norm() for half in halves if half.numel()])
    tile: Tensor = whole / whole.norm()
    return tile


def _hill(rows: int, columns: int) -> Tensor:
    away = torch.maximum(
        (torch.arange(rows) - rows // 2).abs()[:, None], (torch.arange(columns) - columns // 2).abs()[None]
    )
    terms = 1 / torch.arange(1.0, max(rows // 2, columns // 2) + 2).square()
    return terms.flip(0).cumsum(0).flip(0)[away]


def _turned(side: int, u: Tensor, x: Tensor) -> Tensor:
    """[N, side^2]: eta, its halves side by side where u [N] > 1/2."""
    tile = eta(side).to(x)
    return torch.where((u > 0.5)[:, None], tile.T.flatten(), tile.flatten())


def _signs(u: Tensor, like: Tensor) -> Tensor:
    return 1 - 2 * (u < 0.5).to(like)


def _side(share: float, height: int, width: int) -> int:
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _odd(side: int) -> int:
    return side + (side % 2 == 0)


def _corner(u: Tensor, height: int, width: int, side: int) -> Tensor:
    """[N, 2] int64: row and column of the upper left pixel, one of the first height - side, width - side."""
    return (u * u.new_tensor([height - side, width - side])).long()


def _mask(corner: Tensor, height: int, width: int, side: int) -> Tensor:
    """[N, H, W] bool: the pixels of the windows."""
    rows, columns = (
        ((pixel := torch.arange(size, device=corner.device)) >= first[:, None]) & (pixel < first[:, None] + side)
        for size, first in zip((height, width), corner.unbind(1), strict=True)
    )
    return rows[:, :, None] & columns[:, None]


def _pixels(corner: Tensor, width: int, side: int) -> Tensor:
    """[N, side^2] int64: places of the windows' pixels among all H * W."""
    steps = torch.arange(side, device=corner.device)
    return (corner[:, 0] * width + corner[:, 1])[:, None] + (steps[:, None] * width + steps).flatten()


def _grid(height: int, width: int) -> tuple[list[tuple[int, int]], int]:
    """Corners of the tiles, and their side."""
    side = max(min(height, width) // TILES, 1)
    first = [max(size - TILES * side, 0) // 2 for size in (height, width)]
    rows, columns = (range(begin, size - side + 1, side) for begin, size in zip(first, (height, width), strict=True))
    return [(top, left) for top in rows for left in columns], side


def _unit(delta: Tensor) -> Tensor:
    """Divided by the length of each image."""
    length: Tensor = delta.flatten(1).norm(dim=1) + TINY
    return delta / length.view(-1, 1, 1, 1)
