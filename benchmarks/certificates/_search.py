"""The largest verified radius of every image, with few bound computations."""

from collections.abc import Callable

import torch
from torch import Tensor


def largest_verified(
    margin: Callable[[Tensor, Tensor], Tensor],
    margin_at_zero: Tensor,
    first: Tensor,
    cap: float,
    *,
    rounds: int,
    tolerance: float,
) -> Tensor:
    """The largest radius found at which the margin is positive, for every image on its own.

    Verified margins fall with the radius, nearly along a parabola. Every round fits one through the margin at
    zero and the last two points, aims just below its root, and stays between the largest radius verified and the
    smallest one refuted. An image is finished when the bracket, or the distance to the root, is within tolerance.

    Args:
        margin: (radii [b], indices [b] int64) to margins [b]; only a positive number verifies, NaN does not.
        margin_at_zero: [B]; images where it is not positive get radius 0.
        first: [B] the first radii to try.
        cap: the largest radius to try.
        rounds: calls of `margin` at most.
        tolerance: relative.

    Returns:
        [B], each 0 or a radius at which `margin` was positive.
    """
    verified = torch.zeros_like(margin_at_zero)
    refuted = torch.full_like(verified, torch.inf)
    here, there = torch.zeros_like(verified), torch.zeros_like(verified)  # the last two radii
    at_here, at_there = margin_at_zero.clone(), margin_at_zero.clone()
    radius = first.clamp(max=cap)
    active = margin_at_zero > 0
    for _ in range(rounds):
        index = active.nonzero().squeeze(1)
        if len(index) == 0:
            break
        there[index], at_there[index] = here[index], at_here[index]
        here[index], at_here[index] = radius[index], margin(radius[index], index)
        positive = at_here > 0
        verified = torch.where(active & positive, torch.maximum(verified, here), verified)
        refuted = torch.where(active & ~positive, torch.minimum(refuted, here), refuted)
        root = _root(margin_at_zero, there, at_there, here, at_here)
        done = (verified >= (1 - tolerance) * torch.minimum(root, refuted)) | (verified >= cap)
        active &= ~done
        radius = _next_radius(root, verified, refuted, here, tolerance).clamp(max=cap)
    return verified


def _root(zero: Tensor, u: Tensor, at_u: Tensor, v: Tensor, at_v: Tensor) -> Tensor:
    """Where the parabola through (0, zero), (u, at_u), (v, at_v) falls to 0; NaN where it does not."""
    slope_u, slope_v = (zero - at_u) / u, (zero - at_v) / v
    curvature = (slope_v - slope_u) / (v - u)
    # with one point only: a typical CROWN margin, of the form 1 - 0.6 t - 0.4 t^2 in units of its root
    drop = 1 - at_v / zero
    typical = v * (0.6 + (0.36 + 1.6 * drop).sqrt()) / (2 * drop)
    slope = slope_v - curvature * v
    parabola = 2 * zero / (slope + (slope**2 + 4 * curvature * zero).sqrt())
    return torch.where(u > 0, parabola, typical)


def _next_radius(root: Tensor, verified: Tensor, refuted: Tensor, here: Tensor, tolerance: float) -> Tensor:
    low, high = verified, torch.minimum(refuted, 3 * here)
    width = high - low
    usable = (root > low) & (root < high)
    inside = torch.clamp((1 - tolerance / 4) * root, low + 0.02 * width, high - 0.02 * width)
    return torch.where(usable, inside, (low + high) / 2)
