"""The largest verified radius of every image, with few bound computations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PILOTS = (4, 20)  # first so many images are searched, then up to so many, then the others: each show where to begin
FIRST = 0.7  # of the smaller of linear radius and attack distance, where the pilots begin
NEAR = 0.8  # of the tolerance: how near to the root is enough; the rest is for the error of the root
HALVINGS = 24  # of an interval of logarithms, down to float32

Margin = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Limits:
    """Where a search ends."""

    cap: float  # the largest radius to try
    rounds: int  # calls of the margin at most, for every image
    tolerance: float  # relative


def largest_verified(margin: Margin, margin_at_zero: Tensor, linear: Tensor, upper: Tensor, limits: Limits) -> Tensor:
    """The largest radius found at which the margin is positive, for every image on its own.

    Verified margins fall with the radius: linearly at first, then as a power of it. The first root comes from that
    form, later ones from the parabola through the margin at zero and the last two points. Every round aims just below
    the root and stays between the largest radius verified and the smallest one refuted. An image is finished when the
    bracket, or the distance to the root, is within tolerance.

    Certified radii are a share of the attacks' distances that varies less within a network than between networks. So
    a few images are searched first, and the others begin at their median share. Nothing else passes from image to
    image.

    Args:
        margin: (radii [b], indices [b] int64) to margins [b]; only a positive number verifies, NaN does not.
        margin_at_zero: [B]; images where it is not positive get radius 0.
        linear: [B] where the margin would vanish if it kept falling as it does near zero.
        upper: [B] distances of adversarial examples, or infinity; they bound nothing.

    Returns:
        [B], each 0 or a radius at which `margin` was positive.
    """
    scale = torch.where(upper.isfinite(), upper, linear)
    first = FIRST * torch.minimum(linear, upper)
    found = torch.zeros_like(margin_at_zero)
    candidates = (margin_at_zero > 0).nonzero().squeeze(1)
    for begin, end in zip((0, *PILOTS), (*PILOTS, None), strict=True):
        index, before = candidates[begin:end], candidates[:begin]
        share = (found / scale)[before]
        share = share[share > 0]  # none at first
        start = share.median() * scale[index] if len(share) else first[index]

        def of_these(radius: Tensor, rest: Tensor, index: Tensor = index) -> Tensor:
            return margin(radius, index[rest])

        found[index] = _search(of_these, margin_at_zero[index], linear[index], start, limits)
    return found


def _search(margin: Margin, zero: Tensor, linear: Tensor, first: Tensor, limits: Limits) -> Tensor:
    cap, near = limits.cap, NEAR * limits.tolerance
    verified = torch.zeros_like(zero)
    refuted = torch.full_like(verified, torch.inf)
    here, there = torch.zeros_like(verified), torch.zeros_like(verified)  # the last two radii
    at_here, at_there = zero.clone(), zero.clone()
    radius = first.clamp(min=1e-6 * cap, max=cap)
    active = torch.ones_like(zero, dtype=torch.bool)
    for _ in range(limits.rounds):
        rest = active.nonzero().squeeze(1)
        if len(rest) == 0:
            break
        there[rest], at_there[rest] = here[rest], at_here[rest]
        here[rest], at_here[rest] = radius[rest], margin(radius[rest], rest)
        positive = at_here > 0
        verified = torch.where(active & positive, torch.maximum(verified, here), verified)
        refuted = torch.where(active & ~positive, torch.minimum(refuted, here), refuted)
        second = _root_from_two(zero, there, at_there, here, at_here)
        root = torch.where(there > 0, second, _root_from_one(zero, linear, here, at_here))
        enclosed = verified >= (1 - limits.tolerance) * refuted
        active &= ~(enclosed | (verified >= (1 - near) * root) | (verified >= cap))
        radius = _next_radius(root, verified, refuted, here, near).clamp(max=cap)
    return verified


def _root_from_one(zero: Tensor, linear: Tensor, v: Tensor, at_v: Tensor) -> Tensor:
    """The root R of 1 - s t - (1 - s) t^p, t = radius / R, s = R / linear, that has the margin at_v at v; or NaN.

    In units of the margin at zero. The later a margin bends (small s), the sharper: p = 3.2 - 1.4 s, between 1.8 and
    3.2, fits the CROWN margins of networks trained in many ways.
    """
    low, high = (v / 8).log(), (8 * v).log()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        root = middle.exp()
        s, t = (root / linear).clamp(max=1), v / root
        above = 1 - s * t - (1 - s) * t ** (3.2 - 1.4 * s) > at_v / zero
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(at_v.isfinite(), high.exp(), torch.nan)


def _root_from_two(zero: Tensor, u: Tensor, at_u: Tensor, v: Tensor, at_v: Tensor) -> Tensor:
    """Where the parabola through (0, zero), (u, at_u), (v, at_v) falls to 0; NaN where it does not."""
    slope_u, slope_v = (zero - at_u) / u, (zero - at_v) / v
    curvature = (slope_v - slope_u) / (v - u)
    slope = slope_v - curvature * v
    return 2 * zero / (slope + (slope**2 + 4 * curvature * zero).sqrt())


def _next_radius(root: Tensor, verified: Tensor, refuted: Tensor, here: Tensor, near: float) -> Tensor:
    low, high = verified, torch.minimum(refuted, 3 * here)
    usable = (root > low) & (root < high)
    # in the middle of what ends the search
    return torch.where(usable, (1 - near / 2) * root, (low + high) / 2)
