"""Soft-margin softmax and HSIC from their definitions, one example at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marginbench.methods import Net


def soft_margin(z: Tensor, label: int, m: float) -> Tensor:
    """log(1 + exp(the rivals' log-sum-exp - z_label + m))."""
    rivals = torch.stack([z[k] for k in range(len(z)) if k != label])
    return torch.log1p((rivals.exp().sum().log() - z[label] + m).exp())


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """(K-1)^-2 trace(A H B H) for the inner-product kernels A, B of the rows of a, b [K, d]."""
    count = len(a)
    centre = torch.eye(count, dtype=a.dtype) - torch.ones(count, count, dtype=a.dtype) / count
    return torch.trace(a @ a.T @ centre @ b @ b.T @ centre) / (count - 1) ** 2


def loss(net: Net, members: Sequence[nn.Linear], x: Tensor, y: Tensor, *, m: float, diversity: float) -> Tensor:
    """Sum over the linear classifiers `members` of their mean losses, plus diversity times HSIC of every pair."""
    total = x.new_zeros(())
    for member in members:
        for phi, label in zip(net.features(x), y.tolist(), strict=True):
            total = total + soft_margin(member.weight @ phi + member.bias, label, m) / len(y)
    for i, first in enumerate(members):
        for second in members[i + 1 :]:
            total = total + diversity * hsic(first.weight, second.weight)
    return total
