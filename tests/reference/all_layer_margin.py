"""All-layer margin on a network that is a list of layers, with hidden layers after each one that has weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def run(layers: Sequence[nn.Module], x: Tensor, deltas: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits for one image [1, ...]; every layer with weights but the last passes on h + ||h|| delta."""
    count, hidden = 0, []
    last = [layer for layer in layers if hasattr(layer, "weight")][-1]
    for layer in layers:
        x = layer(x)
        if hasattr(layer, "weight") and layer is not last:
            hidden.append(x)
            if deltas:
                x = x + (x**2).sum().sqrt() * deltas[count]
            count += 1
    return x, hidden


def risk(logits: Tensor, label: int) -> Tensor:
    return logits[0].exp().sum().log() - logits[0, label]


def loss(layers: Sequence[nn.Module], x: Tensor, y: Tensor, step: float) -> Tensor:
    """Batch mean of the risk after one step, delta = step ||h|| d risk / d h."""
    total = x.new_zeros(())
    for image, label in zip(x, y, strict=True):
        logits, hidden = run(layers, image[None], [])
        slopes = torch.autograd.grad(risk(logits, label), hidden)
        deltas = [step * (h**2).sum().sqrt().detach() * g for h, g in zip(hidden, slopes, strict=True)]
        total = total + risk(run(layers, image[None], deltas)[0], label)
    return total / len(x)
