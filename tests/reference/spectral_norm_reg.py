"""Spectral norm regularisation with singular values from a full decomposition."""

from collections.abc import Sequence

import torch
from torch import Tensor


def penalty(matrices: Sequence[Tensor]) -> Tensor:
    """Half the sum of the squared largest singular values."""
    total = matrices[0].new_zeros(())
    for matrix in matrices:
        total = total + torch.linalg.svdvals(matrix)[0] ** 2
    return total / 2


def convolution_matrix(weight: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The matrix of a zero-padded convolution, entry by entry."""
    outputs, channels, kh, kw = weight.shape
    heights = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, (kh, kw), stride, strict=True)]
    rows = []
    for o in range(outputs):
        for r in range(heights[0]):
            for c in range(heights[1]):
                row = [weight.new_zeros(())] * (channels * size[0] * size[1])
                for i in range(channels):
                    for a in range(kh):
                        for b in range(kw):
                            y, x = r * stride[0] - padding[0] + a, c * stride[1] - padding[1] + b
                            if 0 <= y < size[0] and 0 <= x < size[1]:
                                row[(i * size[0] + y) * size[1] + x] = weight[o, i, a, b]
                rows.append(torch.stack(row))
    return torch.stack(rows)
