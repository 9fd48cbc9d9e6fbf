"""The sets of perturbed images, as auto-LiRPA perturbations with one epsilon per image."""

import math
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from marginbench.methods import Norm


def ball(library: ModuleType, x: Tensor, epsilon: Tensor, norm: Norm) -> Any:
    """The images of the box [0, 1] within epsilon [B] of x, [B, D] or [B, C, H, W]."""
    each = epsilon.view(-1, *[1] * (x.ndim - 1))
    low, high = (x - each).clamp(0, 1), (x + each).clamp(0, 1)
    if norm == "linf":
        return library.PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high)
    if x.ndim == 2:  # folded networks: a linear layer comes first, auto-LiRPA takes its interval over the ball
        return _l2_class(library)(x, epsilon, low, high, {"norm": 2, "eps": each})
    return _l2_class(library)(x, epsilon, low, high, {"norm": math.inf, "x_L": low, "x_U": high})


@cache
def _l2_class(library: ModuleType) -> Any:
    """auto-LiRPA's Lp ball has one scalar epsilon and ignores the box; this one knows both."""

    class L2BallInBox(library.PerturbationLpNorm):  # type: ignore[misc, name-defined]
        def __init__(self, x: Tensor, epsilon: Tensor, low: Tensor, high: Tensor, base: dict[str, Any]) -> None:
            super().__init__(**base)
            self.centre = x.flatten(1)
            self.epsilon = epsilon
            self.low, self.high = (low - x).flatten(1), (high - x).flatten(1)

        def concretize(self, x: Tensor, A: Any, sign: int = -1, **other: Any) -> Tensor | None:  # noqa: N803
            """The least (sign -1) or greatest (+1) value of A x over the set, A [B, S, ...] -> [B, S]."""
            if isinstance(A, Tensor):
                return self._exact(A.flatten(2), sign)
            plain: Tensor | None = super().concretize(x, A, sign=sign, **other)
            if plain is None or getattr(A, "identity", False) or not hasattr(A, "to_matrix"):
                return plain
            return self._exact(A.to_matrix(x.shape).flatten(2), sign).view_as(plain)

        def _exact(self, rows: Tensor, sign: int) -> Tensor:
            least = least_in_ball_and_box(rows if sign == -1 else -rows, self.low, self.high, self.epsilon)
            value: Tensor = (rows @ self.centre.unsqueeze(-1)).squeeze(-1) - sign * least
            return value

    return L2BallInBox


def least_in_ball_and_box(a: Tensor, low: Tensor, high: Tensor, epsilon: Tensor) -> Tensor:
    """A lower bound of min a.d over |d|_2 <= epsilon, low <= d <= high; a [B, S, D], the box [B, D], epsilon [B].

    Weak duality: for every t > 0 it is at least the minimum over the box of a.d + t (|d|^2 - epsilon^2) / 2, which
    is attained at d = clip(-a / t). Here t = |a'|_2 / epsilon, with a' the entries of a that may move at all; that
    is the best t where the box does not cut further, and never worse than the ball alone, -|a|_2 epsilon.
    """
    low, high, epsilon = low.unsqueeze(1), high.unsqueeze(1), epsilon.clamp_min(1e-12).unsqueeze(1)
    free = torch.where(a > 0, low < 0, high > 0)
    t = ((a * free).norm(dim=-1) / epsilon).clamp_min(torch.finfo(a.dtype).tiny)
    d = (a / -t.unsqueeze(-1)).clamp_(low, high)
    least: Tensor = (d * (d * (t / 2).unsqueeze(-1)).add_(a)).sum(-1) - t * epsilon**2 / 2
    return least
