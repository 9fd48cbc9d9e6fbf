"""Contractive rectifier networks: the loss of the output layer, and distances for its certificate."""

from torch import Tensor


def loss(logits: Tensor, y: Tensor, weight: Tensor, decay: float) -> Tensor:
    """Batch mean of the squared hinge of the margin, plus half of decay times the sum of squared weights."""
    total = logits.new_zeros(())
    for row, label in zip(logits, y, strict=True):
        margin = row[label] - max(row[j] for j in range(len(row)) if j != label)
        total = total + (max(1 - margin, 0 * margin)) ** 2
    return total / len(y) + decay / 2 * sum(((row**2).sum() for row in weight), total.new_zeros(()))


def radius(logits: Tensor, weight: Tensor, stretch: float) -> Tensor:
    """Distance below which no logit can overtake the largest, if images are stretched by at most `stretch`."""
    top = max(range(len(logits)), key=lambda k: float(logits[k]))
    rivals = [j for j in range(len(logits)) if j != top]
    distances: list[Tensor] = [(logits[top] - logits[j]) / (stretch * (weight[top] - weight[j]).norm()) for j in rivals]
    return min(distances, key=Tensor.item)
