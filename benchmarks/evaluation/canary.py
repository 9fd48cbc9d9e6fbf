"""A network of which the margins or the faults are known, and how far it is to a plane within the box."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.methods import NORMS, Net, Norm

HALVINGS = 200  # of an interval of float64
ANY = frozenset({"ibp", "crown_ibp", "crown", "alpha_crown"})  # certificates by bound propagation
BACKWARD = ANY - {"ibp"}  # exact where every ReLU is on


@dataclass(frozen=True)
class Canary:
    """A network with images of classes that it gives them, and what is known about it."""

    title: str
    net: Net
    data: Dataset
    exact: dict[Norm, Tensor] = field(default_factory=dict)  # [N] true margins in pixels, NaN where unknown
    tolerance: float = 1e-5  # relative, of the margins and of float32 distances
    reach: float | None = 1.02  # upper bounds / truth at most, median over the points; None: they may miss it
    proven: dict[Norm, frozenset[str]] = field(default_factory=dict)  # certificates that reach 98 % of the truth
    applies: frozenset[str] = frozenset()  # certificates that may not refuse the network
    searched: bool = False  # whether attacks at a radius must find what lies within it
    doubts: frozenset[str] | None = frozenset()  # one of them must be raised; without any, none may be; None: not asked
    attacks: Mapping[str, Any] = field(default_factory=dict)  # with their settings; empty: all

    @property
    def epsilon(self) -> dict[Norm, float]:
        """The radii of its evaluation: most known margins lie below, and many above the half of it."""
        found = dict(DEFAULT)
        for norm, margin in self.exact.items():
            if len(known := margin[margin.isfinite()]):
                found[norm] = float(known.quantile(0.8))
        return found


DEFAULT: dict[Norm, float] = {"linf": 0.05, "l2": 0.25}  # radii where no margin is known


def labelled(net: Net, x: Tensor) -> Dataset:
    """The images [N, C, H, W] uint8 with the network's own predictions as labels, in all three splits."""
    with torch.no_grad():
        y = net(x.float() / 255).argmax(1)
        classes = net(x[:1].float() / 255).shape[1]
    split = Split(x, y, 255)
    return Dataset(split, split, split, classes, "canary")


def affine_map(net: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """W [K, D] and b [K], float64, of a network that computes W x + b of images `shape` with D pixels."""
    with torch.no_grad():
        pixels = torch.Size(shape).numel()
        basis = torch.eye(pixels, dtype=torch.float64).view(pixels, *shape)
        constant = net(torch.zeros(1, *shape, dtype=torch.float64))
        return (net(basis) - constant).flatten(1).T, constant.flatten()


def linear_margins(weight: Tensor, bias: Tensor, x: Tensor) -> dict[Norm, Tensor]:
    """The margins [N] of argmax_j (W x + b)_j at images x [N, C, H, W] in the box, in both norms, float64."""
    x = x.double().flatten(1)
    z = x @ weight.T + bias
    y = z.argmax(1)
    normals = weight - weight[y][:, None]
    gaps = (z.gather(1, y[:, None]) - z).masked_fill(torch.nn.functional.one_hot(y, z.shape[1]).bool(), torch.inf)
    return {norm: to_planes(x, normals, gaps, norm) for norm in NORMS}


def to_planes(x: Tensor, normals: Tensor, gaps: Tensor, norm: Norm) -> Tensor:
    """The least ||d|| over all planes with <n_r, d> >= g_r and x + d in [0, 1], [N] float64; inf without any.

    Pixel i moves towards the plane by min(t s_i, room_i), s_i = |n_i| in L2 and 1 in L-infinity, for the least t.

    Args:
        x: [N, D] float64 in [0, 1].
        normals: [N, R, D]; gaps: [N, R], above 0.
    """
    weight = normals.abs()
    room = torch.where(normals > 0, 1 - x[:, None], x[:, None])
    speed = weight if norm == "l2" else torch.ones_like(weight)
    reachable = (weight * room).sum(2) >= gaps
    low = torch.zeros_like(gaps)
    high = (1 / speed.masked_fill(weight == 0, torch.inf).clamp(min=1e-9)).amax(2)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = (weight * torch.minimum(middle[..., None] * speed, room)).sum(2) < gaps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    move = torch.minimum(high[..., None] * speed, room) * (weight > 0)
    length = move.norm(dim=2) if norm == "l2" else move.amax(2)
    return length.masked_fill(~reachable, torch.inf).amin(1)
