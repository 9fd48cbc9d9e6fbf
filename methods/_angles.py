"""Heads whose logits are angles: features and class weights are normalised."""

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


def add_angle(cosine: Tensor, m: float) -> Tensor:
    """cos(theta + m) for cosine = cos(theta), any shape, with a finite gradient: it is 0 within 1e-7 of 1 and -1."""
    return (cosine.clamp(1e-7 - 1, 1 - 1e-7).acos() + m).cos()
