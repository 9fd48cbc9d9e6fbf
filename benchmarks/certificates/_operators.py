"""Bounds of our own operations, as classes of auto-LiRPA: intervals, and lines for its backward pass."""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.certificates._curves import CLEARLY, bounding_lines, find_range
from marginbench.benchmarks.certificates._layers import CURVED, LARGEST, MOVED, curve_of, grouped, largest, moved


@cache
def own_operators() -> dict[str, type]:
    """By the names of the operations in a trace; auto-LiRPA must have been loaded."""
    base: Any = importlib.import_module("auto_LiRPA.operators.activation").BoundActivation
    linear: Any = importlib.import_module("auto_LiRPA.operators.base").Bound

    class BoundCurved(base):  # type: ignore[misc]
        """A scalar function between two lines: see `bounding_lines`."""

        def __init__(self, attr: Any, inputs: Any, output_index: int, options: Any) -> None:
            super().__init__(attr, inputs, output_index, options)
            self.curve = curve_of(attr["curve"])

        def forward(self, x: Tensor) -> Tensor:
            return self.curve.function(x)

        def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
            return find_range(self.curve, v[0][0], v[0][1])

        def bound_relax(self, x: Any) -> None:
            self.lw, self.lb, self.uw, self.ub = bounding_lines(self.curve, x.lower.detach(), x.upper.detach())

    class BoundLargest(base):  # type: ignore[misc]
        """Bounds of the sum over each group, divided among its entries: only that sum may follow.

        With l <= x <= u and t = max l: x_j <= max x <= t + sum_i (u_i - t)^+ / (u_i - l_i) (x_i - l_i) for every j,
        since max x <= t + sum_i (x_i - t)^+, and the chord bounds each (x_i - t)^+. Or max x <= max u.
        """

        only_sums = True  # bounds of single entries mean nothing

        def forward(self, x: Tensor, valid: Tensor) -> Tensor:
            return largest(x, valid)

        def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
            valid = v[1][0]
            low, high = (self._first(grouped(x, valid), valid) for x in v[0][:2])
            return low, high

        @staticmethod
        def _first(groups: Tensor, valid: Tensor) -> Tensor:
            most = groups.masked_fill(valid.unsqueeze(1) == 0, -torch.inf).amax(2, keepdim=True)
            return torch.cat([most, torch.zeros_like(groups[:, :, 1:])], 2).flatten(1, 2)

        def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, valid: Any) -> Any:  # noqa: N803
            self.valid = valid.forward_value
            (coefficients,), low, high = super().bound_backward(last_lA, last_uA, x)
            return [coefficients, (None, None)], low, high

        @torch.no_grad()
        def bound_relax(self, x: Any) -> None:
            out = self.valid.unsqueeze(1) == 0
            low, high = (grouped(bound.detach(), self.valid) for bound in (x.lower, x.upper))
            top = low.masked_fill(out, -torch.inf).amax(2, keepdim=True)
            most = high.masked_fill(out, -torch.inf).amax(2, keepdim=True)
            width = high - low
            slope = torch.where(out | (width <= 0), 0, (high - top).clamp(min=0) / width)
            base_value = top - (slope * low).sum(2, keepdim=True)
            middle = base_value + (slope * (low + high) / 2).sum(2, keepdim=True)
            flat = most < middle - CLEARLY * (most - top)
            slope = torch.where(flat, 0, slope)
            eps = torch.finfo(low.dtype).eps
            rounding = 8 * eps * (top.abs() + (slope * torch.maximum(low.abs(), high.abs())).sum(2, keepdim=True))
            offset = torch.where(flat, most, base_value + rounding)
            # the first of those that are about the largest: the same in float32 and float64
            centre = (low + high).masked_fill(out, -torch.inf)
            near = centre >= centre.amax(2, keepdim=True) - CLEARLY * width.amax(2, keepdim=True)
            order = torch.arange(near.shape[2], 0, -1, device=near.device).view(1, 1, -1, 1, 1)
            best = (near * order).argmax(2, keepdim=True)
            self.lw = torch.zeros_like(low).scatter(2, best, 1.0).flatten(1, 2)
            self.lb = torch.zeros_like(self.lw)
            self.uw = slope.flatten(1, 2)
            self.ub = torch.cat([offset, torch.zeros_like(low[:, :, 1:])], 2).flatten(1, 2)

    class BoundMoved(linear):  # type: ignore[misc]
        """Coefficients [S, B, ...] of entries go back to where these came from."""

        def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
            return moved(x, index, weight)

        def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
            ends = [moved(end, v[1][0], v[2][0]) for end in v[0][:2]]
            return torch.minimum(*ends), torch.maximum(*ends)

        def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, index: Any, weight: Any) -> Any:  # noqa: N803
            places, shape = index.forward_value.flatten(), x.output_shape[1:]

            def back(a: Tensor | None) -> Tensor | None:
                if a is None:
                    return None
                entries = a.new_zeros(*a.shape[:2], shape.numel())
                entries.index_add_(2, places, (weight.forward_value * a).flatten(2))
                return entries.view(*a.shape[:2], *shape)

            return [(back(last_lA), back(last_uA)), (None, None), (None, None)], 0, 0

    return {CURVED: BoundCurved, LARGEST: BoundLargest, MOVED: BoundMoved}
