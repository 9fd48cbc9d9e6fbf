"""Minnorm training: one Lagrangian and one update of the multipliers, example by example."""

from collections.abc import Sequence

from torch import Tensor


def step(
    logits: Tensor,
    y: Tensor,
    matrices: Sequence[Tensor],
    multipliers: Sequence[float],
    rate: float,
    decay: float,
    limit: float,
) -> tuple[Tensor, list[float]]:
    """The loss and the new multipliers (a list of floats)."""
    total, updated = logits.new_zeros(()), []
    for row, label, old in zip(logits, y, multipliers, strict=True):
        shortfall = 1 - row[label] + max(row[j] for j in range(len(row)) if j != label)
        updated.append(min(max(old + rate * shortfall.item(), 0.0), limit))
        total = total + updated[-1] * shortfall
    return total / len(y) + decay / 2 * sum(((m**2).sum() for m in matrices), total.new_zeros(())), updated
