"""Heads whose logits are angles, and margins on angles."""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import as_float


class CosineHead(nn.Module):
    """Logits z_k = s <phi, w_k> / (||phi|| ||w_k||), without bias. Knows no labels and no margin.

    Runs in float32 under autocast: an angle near 0 or pi does not survive bfloat16.

    Args:
        weight: [K, d] initial class weights; only their directions matter.
        scale: s > 0.
    """

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = scale

    @classmethod
    def replacing(cls, head: nn.Module, scale: float) -> Self:
        """A cosine head with the class weights of a linear head, so that runs start from the same directions.

        Raises:
            MarginbenchError: the head is not linear.
        """
        if not isinstance(head, nn.Linear):
            raise MarginbenchError(f"a cosine head replaces a linear head, not {type(head).__name__}")
        return cls(head.weight, scale)

    def cosine(self, features: Tensor) -> Tensor:
        """[B, d] features to [B, K] cosines, float32 or wider; a zero feature has cosine 0 with every class."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(unit_rows(as_float(features)), unit_rows(self.weight))

    def forward(self, features: Tensor) -> Tensor:
        """[B, d] features to [B, K] logits."""
        return self.scale * self.cosine(features)

    def decision_layer(self) -> nn.Linear:
        """The linear layer with unit rows: its logits are the cosines times ||phi||, so the argmax is the same."""
        classes, features = self.weight.shape
        layer = nn.Linear(features, classes, bias=False, device="meta")  # meta: draws no random numbers
        layer.weight = nn.Parameter(unit_rows(self.weight.detach()))
        return layer


def unit_rows(x: Tensor) -> Tensor:
    """x [n, d] with rows of unit norm; a zero row stays zero."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norms.clamp_min(1e-12)


def add_angle(cosine: Tensor, m: float | Tensor) -> Tensor:
    """cos(theta + m) for cosine = cos(theta), any shape, with a finite gradient: it is 0 within 1e-7 of 1 and -1."""
    return (cosine.clamp(1e-7 - 1, 1 - 1e-7).acos() + m).cos()


class UnitRowHead(CosineHead):
    """Logits z_k = s <phi, w_k> / ||w_k||: a cosine head in which the feature keeps its norm."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, d] features to [B, K] logits."""
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * F.linear(as_float(features), unit_rows(self.weight))


def bias_free(head: nn.Module) -> nn.Linear:
    """A linear head with the class weights of `head` and no bias.

    Raises:
        MarginbenchError: the head is not linear.
    """
    if not isinstance(head, nn.Linear):
        raise MarginbenchError(f"a head without bias replaces a linear head, not {type(head).__name__}")
    layer = nn.Linear(head.in_features, head.out_features, bias=False, device="meta")  # meta: draws no random numbers
    layer.weight = nn.Parameter(head.weight.detach().clone())
    return layer


def multiply_angle(cosine: Tensor, m: int) -> Tensor:
    """psi(theta) = (-1)^k cos(m theta) - 2k on [k pi / m, (k + 1) pi / m], k < m, for cosine = cos(theta), any shape.

    cos(m theta) is the Chebyshev polynomial of the cosine, so the gradient is finite everywhere; k is a constant
    in the backward pass.
    """
    with torch.no_grad():
        turns = [(cosine <= math.cos(j * math.pi / m)).to(cosine.dtype) for j in range(1, m)]
        k = sum(turns, start=torch.zeros_like(cosine))
        sign = 1 - 2 * (k % 2)
    before, value = torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        before, value = value, 2 * cosine * value - before
    return sign * value - 2 * k


def multiply_target_angle(logits: Tensor, lengths: Tensor, y: Tensor, m: int, share: float | Tensor) -> Tensor:
    """Logits [B, K] with the target l cos(theta_y) replaced by l ((1 - share) cos(theta_y) + share psi(theta_y)).

    Args:
        lengths: [B, 1] the l; a target logit divided by it is a cosine.
        y: [B] labels.
        share: 0 leaves the logits as they are, 1 is the full margin.
    """
    target = logits.gather(1, y[:, None])
    margin = lengths * multiply_angle(target / lengths.clamp_min(1e-12), m) - target
    return logits.scatter(1, y[:, None], target + share * margin)


def add_angle_monotone(cosine: Tensor, m: float | Tensor) -> Tensor:
    """cos(theta + m), and cos(theta) - m sin(m) where theta + m > pi: decreasing in theta. Any shape.

    Args:
        m: in [0, pi / 2], a number or a scalar.
    """
    cos, sin = (m.cos(), m.sin()) if isinstance(m, Tensor) else (math.cos(m), math.sin(m))
    return torch.where(cosine > -cos, add_angle(cosine, m), cosine - m * sin)


def share_beyond(cosine: Tensor, m: float) -> Tensor:
    """The share of angles with theta + m > pi, for cosine = cos(theta) of any shape: there the margin is no angle."""
    return (cosine.detach() <= -math.cos(m)).float().mean()


def subtract_target(cosine: Tensor, y: Tensor, margin: Tensor | float) -> Tensor:
    """Cosines [B, K] with the margin, a number or [B, 1], taken from the entry of each label y [B]."""
    return cosine.scatter(1, y[:, None], cosine.gather(1, y[:, None]) - margin)
