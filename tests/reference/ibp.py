"""Interval bound propagation, one image and one unit at a time."""

from collections.abc import Sequence

import torch
from support import Layers
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Net
from marginbench.methods.net import Normalise


def matrices(net: Net, size: Sequence[int]) -> Layers:
    """(matrix, bias) of all convolutions and linear layers, for images of one channel; the first takes pixels.

    A column of the matrix of a convolution is what a single bright pixel gives.
    """
    found, shape = [], (1, *size)
    for layer in [*net.body, net.head]:
        if hasattr(layer, "kernel_size"):
            units = torch.eye(shape[0] * shape[1] * shape[2], dtype=layer.weight.dtype).view(-1, *shape)
            columns = F.conv2d(units, layer.weight, None, layer.stride, layer.padding)
            shape = tuple(columns.shape[1:])
            found.append((columns.flatten(1).T, layer.bias.repeat_interleave(shape[1] * shape[2])))
        elif hasattr(layer, "weight"):
            found.append((layer.weight, layer.bias))
    weight, bias = found[0]
    assert isinstance(net.normalise, Normalise)
    mean, std = net.normalise.mean.item(), net.normalise.std.item()
    return [(weight / std, bias - weight.sum(1) * mean / std), *found[1:]]


def margins(image: Tensor, label: int, layers: Layers, epsilon: float) -> Tensor:
    """Lower bounds of z_label - z_j for every j, 0 for the label.

    `layers` are (matrix, bias) pairs, the first one for pixels, with a ReLU between them.
    """
    low, high = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
    for weight, bias in layers[:-1]:
        lows, highs = [], []
        for row, b in zip(weight, bias, strict=True):
            lows.append(torch.where(row > 0, row * low, row * high).sum() + b)
            highs.append(torch.where(row > 0, row * high, row * low).sum() + b)
        low, high = torch.stack(lows).clamp_min(0), torch.stack(highs).clamp_min(0)
    weight, bias = layers[-1]
    found = []
    for row, b in zip(weight, bias, strict=True):
        gap = weight[label] - row
        found.append(torch.where(gap > 0, gap * low, gap * high).sum() + bias[label] - b)
    return torch.stack(found)


def loss(x: Tensor, y: Tensor, layers: Layers, logits: Tensor, *, epsilon: float, kappa: float) -> Tensor:
    """The objective at one radius and one kappa; `logits` are those of the network."""
    total = x.new_zeros(())
    for image, label, z in zip(x, y.tolist(), logits, strict=True):
        bound = margins(image, label, layers, epsilon)
        total = total + kappa * (z.exp().sum().log() - z[label])
        total = total + (1 - kappa) * (-bound).exp().sum().log()
    return total / len(y)
