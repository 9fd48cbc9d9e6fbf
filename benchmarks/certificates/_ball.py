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
            self.centre, self.low, self.high = x, low - x, high - x
            self.epsilon = epsilon

        def concretize(self, x: Tensor, A: Any, sign: int = -1, **other: Any) -> Tensor | None:  # noqa: N803
            """The least (sign -1) or greatest (+1) value of A x over the set, A [B, S, ...] -> [B, S]."""
            if isinstance(A, Tensor):
                rows, epsilon = A.flatten(2), self.epsilon[:, None]
                value = (rows @ self.centre.flatten(1).unsqueeze(-1)).squeeze(-1)
                low, high = (edge.flatten(1).unsqueeze(1) for edge in (self.low, self.high))
                return value - sign * least_in_ball_and_box(-sign * rows, low, high, epsilon)
            if not hasattr(A, "patches") or A.identity:
                plain: Tensor | None = super().concretize(x, A, sign=sign, **other)
                return plain
            rows = A.patches.flatten(-3)  # [S, B, h, w, D], or [S, B, D] of neurons with their own place
            epsilon = self.epsilon if A.unstable_idx else self.epsilon[:, None, None]
            low, high = (_windows(library, A, edge) for edge in (self.low, self.high))
            least = least_in_ball_and_box(-sign * rows, low, high, epsilon)
            bound: Tensor = A.matmul(self.centre) - sign * least.transpose(0, 1)
            return bound

    return L2BallInBox


def _windows(library: ModuleType, patches: Any, images: Tensor) -> Tensor:
    """The pixels of [B, C, H, W] that each patch lies on, [B, h, w, D] or, of unstable neurons alone, [S, B, D]."""
    windows: Tensor = library.patches.inplace_unfold(
        images,
        kernel_size=patches.patches.shape[-2:],
        stride=patches.stride,
        padding=patches.padding,
        inserted_zeros=patches.inserted_zeros,
        output_padding=patches.output_padding,
    ).flatten(-3)
    if patches.unstable_idx is None:
        return windows
    _, row, column = patches.unstable_idx
    return windows[:, row, column].transpose(0, 1)


def least_in_ball_and_box(a: Tensor, low: Tensor, high: Tensor, epsilon: Tensor) -> Tensor:
    """A lower bound of min a.d over |d|_2 <= epsilon, low <= d <= high; a and box [..., D], epsilon [...].

    Weak duality: for every t > 0 it is at least the minimum over the box of a.d + t (|d|^2 - epsilon^2) / 2, which
    is attained at d = clip(-a / t). Here t = |a'|_2 / epsilon, with a' the entries of a that may move at all; that
    is the best t where the box does not cut further, and never worse than the ball alone, -|a|_2 epsilon.
    """
    epsilon = epsilon.clamp_min(1e-12)
    free = torch.where(a > 0, low < 0, high > 0)
    t = ((a * free).norm(dim=-1) / epsilon).clamp_min(torch.finfo(a.dtype).tiny)
    d = (a / -t.unsqueeze(-1)).clamp_(low, high)
    least: Tensor = (d * (d * (t / 2).unsqueeze(-1)).add_(a)).sum(-1) - t * epsilon**2 / 2
    return least
