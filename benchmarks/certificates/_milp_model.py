"""A ReLU network over an L-infinity ball in the box, as a mixed-integer linear program, and HiGHS that solves it.

All variables have ranges of about 1: the solver's absolute tolerances are relative to radius and bounds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.methods.maths.bounds.linear import (
    Affine,
    Ball,
    Blocks,
    Interval,
    adaptive,
    interval_bounds,
    linear_margins,
    parallel,
)

ROUNDING = 1e-9  # relative and absolute: float64 bounds are widened by it
SOLVER_SLACK = 1e-4  # in variables of range 1; the solver's bounds may be wrong by 1e-7 for each of some 300 columns
OPTIMAL, INFEASIBLE = 0, 2  # scipy's codes

Array = np.ndarray
Ranges = list[tuple[Array, Array]]  # least and greatest pre-activations [m] of every hidden layer


def as_blocks(folded: nn.Sequential) -> Blocks:
    """One block for every linear layer, of linear layers and ReLUs alternating."""
    return [[Affine(layer.weight, layer.bias)] for layer in folded if isinstance(layer, nn.Linear)]


def pre_activation_bounds(blocks: Blocks, ball: Ball) -> list[Interval]:
    """Bounds [1, m] of the pre-activations of every hidden layer: the best of intervals, CROWN and parallel lines."""
    bounds: list[Interval] = []
    for depth, interval in enumerate(interval_bounds(blocks, ball.box())[0]):
        eye = torch.eye(interval[0].shape[1], dtype=torch.float64)
        rows = torch.cat([eye, -eye])
        below, above = least_values(blocks[: depth + 1], bounds, ball, rows).chunk(2)
        low, high = torch.maximum(interval[0], below), torch.minimum(interval[1], -above)
        bounds.append((low - ROUNDING * (1 + low.abs()), high + ROUNDING * (1 + high.abs())))
    return bounds


def least_values(blocks: Blocks, bounds: list[Interval], ball: Ball, rows: Tensor) -> Tensor:
    """Lower bounds [S] of rows [S, m] times the outputs of the last block."""
    least = [
        linear_margins(blocks, [relax(interval) for interval in bounds], ball, rows[None], rows.new_zeros(1, len(rows)))
        for relax in (adaptive, parallel)
    ]
    best = torch.maximum(*least)[0]
    return best - ROUNDING * (1 + best.abs())


@dataclass(frozen=True)
class Program:
    """lower <= matrix v <= upper and low <= v <= high, with V columns v.

    They are the moves d = (x' - x) / radius of n pixels, t = max |d|, and p, q, a of every unstable unit.
    """

    matrix: Array  # [R, V]
    lower: Array  # [R]
    upper: Array
    low: Array  # [V]
    high: Array
    binary: Array  # [V] bool
    values: Ranges  # pre-activations of every layer, the logits last: rows [m, V] and constants [m]
    pixels: int  # n

    def size_of_move(self) -> Array:
        """The cost t [V]."""
        cost = np.zeros(len(self.low))
        cost[self.pixels] = 1
        return cost

    def at_least(self, row: Array, bound: float) -> "Program":
        """With row v >= bound in addition."""
        scale = max(float(np.abs(row).sum()), 1e-12)
        return replace(
            self,
            matrix=np.vstack([self.matrix, row / scale]),
            lower=np.append(self.lower, bound / scale),
            upper=np.append(self.upper, np.inf),
        )


def encode(blocks: Blocks, x: Array, radius: float, ranges: Ranges) -> Program:
    """The network over the images of the box [0, 1] within `radius` of x [n].

    A unit whose pre-activation z may lie on both sides of 0, in [l, u], has z = u p + l q with 0 <= p <= a,
    0 <= q <= 1 - a and a in {0, 1}; its value is u p. This is the big-M formulation, scaled. Other units are
    substituted.
    """
    unstable = [np.flatnonzero((low < 0) & (high > 0)) for low, high in ranges]
    pixels, units = len(x), sum(map(len, unstable))
    width = pixels + 1 + 3 * units
    low, high = np.zeros(width), np.ones(width)
    low[:pixels], high[:pixels] = np.maximum(-1, -x / radius), np.minimum(1, (1 - x) / radius)
    moves, size = np.eye(pixels, width), np.eye(1, width, pixels)
    rows, lower, upper = [size - moves, size + moves], [np.zeros(2 * pixels)], [np.full(2 * pixels, np.inf)]
    out, constant = radius * moves, x
    values: Ranges = []
    first = pixels + 1
    for depth, [affine] in enumerate(blocks):
        weight, bias = affine.weight.numpy(), affine.bias.numpy()
        out, constant = weight @ out, weight @ constant + bias
        values.append((out, constant))
        if depth == len(ranges):
            break
        least, most = ranges[depth]
        index = unstable[depth]
        count = len(index)
        p, q, a = (np.eye(count, width, first + group * units) for group in range(3))
        below, above = least[index, None], most[index, None]
        span = most[index] - least[index]
        rows += [(out[index] - above * p - below * q) / span[:, None], a - p, a + q]
        lower += [-constant[index] / span, np.zeros(count), np.zeros(count)]
        upper += [-constant[index] / span, np.ones(count), np.ones(count)]
        active = least >= 0
        out, constant = out * active[:, None], constant * active
        out[index] = above * p
        first += count
    binary = np.arange(width) >= pixels + 1 + 2 * units
    matrix = np.concatenate(rows)
    return Program(matrix, np.concatenate(lower), np.concatenate(upper), low, high, binary, values, pixels)


def solve(
    program: Program, cost: Array, deadline: float, *, relaxed: bool = False, gap: float = 0.0
) -> tuple[float, Array | None]:
    """Minimise cost v [V], or do so on the linear relaxation.

    Returns:
        What is proven to be a lower bound of the minimum, but for the solver's tolerances: inf where there is no
        solution, -inf where nothing is known. And the best v found, if any.
    """
    seconds = deadline - time.perf_counter()
    if seconds <= 0:
        return -math.inf, None
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import
    from scipy.sparse import csc_array

    whole = program.binary & (not relaxed)
    result = milp(
        cost,
        integrality=whole.astype(np.uint8),
        bounds=Bounds(program.low, program.high),
        constraints=LinearConstraint(csc_array(program.matrix), program.lower, program.upper),
        options={"time_limit": seconds, "mip_rel_gap": gap},
    )
    if result.status == INFEASIBLE:
        return math.inf, None
    bound = result.mip_dual_bound if whole.any() else result.fun if result.status == OPTIMAL else None
    if bound is None or not math.isfinite(bound):
        bound = -math.inf
    return float(bound), result.x


def shrink(build: Callable[[Ranges], Program], ranges: Ranges, deadline: float, first: int) -> Ranges | None:
    """Tighter ranges of the unstable units, by two linear programs for each.

    Args:
        build: makes the program of given ranges, with all its constraints.
        first: layers before this one are left as they are.

    Returns:
        The ranges; None where the constraints are found to have no solution.
    """
    ranges = [(low.copy(), high.copy()) for low, high in ranges]
    for depth in range(first, len(ranges)):
        program = build(ranges)
        rows, constants = program.values[depth]
        low, high = ranges[depth]
        for unit in np.flatnonzero((low < 0) & (high > 0)):
            span = high[unit] - low[unit]
            below, _ = solve(program, rows[unit] / span, deadline, relaxed=True)
            if below == math.inf:
                return None
            low[unit] = max(low[unit], (below - SOLVER_SLACK) * span + constants[unit])
            if low[unit] >= 0:
                continue
            above, _ = solve(program, -rows[unit] / span, deadline, relaxed=True)
            if above == math.inf:
                return None
            high[unit] = min(high[unit], (SOLVER_SLACK - above) * span + constants[unit])
    return ranges
