"""Lipschitz-margin training with singular values of the written-out matrices."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def matrix(layer: nn.Module, shape: Sequence[int]) -> Tensor:
    """The linear part of a layer with inputs of shape [1, ...], as a matrix: column by column."""
    with torch.no_grad():
        size = math.prod(shape)
        zero = layer(torch.zeros(shape, dtype=torch.float64))
        columns = []
        for i in range(size):
            unit = torch.zeros(size, dtype=torch.float64)
            unit[i] = 1
            columns.append((layer(unit.view(shape)) - zero).flatten())
        return torch.stack(columns, dim=1)


def convolution_matrix(weight: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The matrix of a convolution from its kernel, differentiable; explicit loops over outputs and taps."""
    outputs, channels, kh, kw = weight.shape
    height, width = ((n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, (kh, kw), stride, strict=True))
    rows = []
    for o in range(outputs):
        for i in range(height):
            for j in range(width):
                row = torch.zeros(channels, *size, dtype=weight.dtype)
                for a in range(kh):
                    for b in range(kw):
                        r, c = i * stride[0] + a - padding[0], j * stride[1] + b - padding[1]
                        if 0 <= r < size[0] and 0 <= c < size[1]:
                            row = row.index_put(
                                (torch.arange(channels), torch.tensor(r), torch.tensor(c)), weight[o, :, a, b]
                            )
                rows.append(row.flatten())
    return torch.stack(rows)


def loss(
    logits: Tensor,
    y: Tensor,
    matrices: Sequence[Tensor],
    factor: float,
    *,
    c: float,
    variant: str = "basic",
    gate: bool = False,
) -> Tensor:
    """Cross-entropy of the penalised logits; `matrices` are those of the layers in order, the head last."""
    head = matrices[-1]
    body = factor * math.prod(torch.linalg.svdvals(m)[0] for m in matrices[:-1])
    total = logits.new_zeros(())
    for z, label in zip(logits, y.tolist(), strict=True):
        rivals = [k for k in range(len(z)) if k != label]
        if variant == "basic":
            penalties = {k: math.sqrt(2) * c * body * torch.linalg.svdvals(head)[0] for k in rivals}
        else:
            penalties = {k: c * body * (head[k] - head[label]).norm() for k in rivals}
        share = 1.0
        if gate and c > 0:
            share = min(((z[label] - z[k]) / penalties[k]).item() for k in rivals)
            share = min(max(share, 0.0), 1.0)
        gaps = [z[k] + share * penalties[k] - z[label] for k in rivals]
        total = total + torch.log1p(torch.stack(gaps).exp().sum())
    return total / len(y)
