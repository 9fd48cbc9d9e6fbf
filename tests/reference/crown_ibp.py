"""CROWN-IBP, one image and one class at a time."""

import torch
from support import Bounds, Layers
from torch import Tensor


def interval(row: Tensor, bias: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(row > 0, row * low, row * high).sum() + bias, (
        torch.where(row > 0, row * high, row * low).sum() + bias
    )


def ranges(image: Tensor, layers: Layers, epsilon: float) -> Bounds:
    """Intervals of the inputs and of every layer's outputs before its ReLU, the head left out."""
    low, high = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
    found = [(low, high)]
    for weight, bias in layers[:-1]:
        pairs = [interval(row, b, low, high) for row, b in zip(weight, bias, strict=True)]
        low, high = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
        found.append((low, high))
        low, high = low.clamp_min(0), high.clamp_min(0)
    return found


def lines(low: Tensor, high: Tensor) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
    """Slope below; slope and intercept above."""
    if low >= 0:
        return 1.0, 1.0, 0.0
    if high <= 0:
        return 0.0, 0.0, 0.0
    return float(high > -low), high / (high - low), -low * high / (high - low)


def margins(image: Tensor, label: int, layers: Layers, epsilon: float) -> tuple[Tensor, Tensor]:
    """The bounds by lines and by intervals, each with one entry per class, 0 for the label."""
    found = ranges(image, layers, epsilon)
    head, bias = layers[-1]
    by_lines, by_intervals = [], []
    for row, b in zip(head, bias, strict=True):
        a, constant = head[label] - row, bias[label] - b
        low, high = found[-1]
        by_intervals.append(interval(a, constant, low.clamp_min(0), high.clamp_min(0))[0])
        for (weight, shift), (low, high) in zip(reversed(layers[:-1]), reversed(found[1:]), strict=True):
            through = []
            for k in range(len(a)):
                below, above, intercept = lines(low[k], high[k])
                through.append(a[k] * (below if a[k] > 0 else above))
                if a[k] < 0:
                    constant = constant + a[k] * intercept
            a = torch.stack(through)
            constant = constant + (a * shift).sum()
            a = a @ weight
        by_lines.append(interval(a, constant, *found[0])[0])
    return torch.stack(by_lines), torch.stack(by_intervals)


def loss(x: Tensor, y: Tensor, layers: Layers, logits: Tensor, *, epsilon: float, kappa: float, beta: float) -> Tensor:
    """The objective at one radius, kappa and beta; `logits` are those of the network."""
    total = x.new_zeros(())
    for image, label, z in zip(x, y.tolist(), logits, strict=True):
        by_lines, by_intervals = margins(image, label, layers, epsilon)
        bound = beta * by_lines + (1 - beta) * by_intervals
        total = total + kappa * (z.exp().sum().log() - z[label])
        total = total + (1 - kappa) * (-bound).exp().sum().log()
    return total / len(y)
