"""Quantised numbers one at a time, and networks with them whose gradients pass straight through."""

from collections.abc import Sequence

import torch
from support import Layers
from torch import Tensor


def weight(w: Tensor, bits: int) -> Tensor:
    """Symmetric levels up to the largest size; with one bit, the mean size with the sign."""
    sizes = [abs(entry) for entry in w.flatten().tolist()]
    if bits == 1:
        mean = sum(sizes) / len(sizes)
        values = [-mean if entry < 0 else mean for entry in w.flatten().tolist()]
    else:
        levels = 2 ** (bits - 1) - 1
        step = max(sizes) / levels
        values = [step * round(entry / step) for entry in w.flatten().tolist()]
    return torch.tensor(values, dtype=w.dtype).view_as(w)


def activation(h: Tensor, bits: int, largest: float) -> Tensor:
    """One of 2^bits levels from 0 to `largest`; with one bit, the sign of what enters the ReLU."""
    if bits == 1:
        values = [-1.0 if entry < 0 else 1.0 for entry in h.flatten().tolist()]
    else:
        step = largest / (2**bits - 1)
        values = [step * round(min(max(entry, 0.0), largest) / step) for entry in h.flatten().tolist()]
    return torch.tensor(values, dtype=h.dtype).view_as(h)


def forward(layers: Layers, x: Tensor, bits: int, largest: Sequence[float] | None) -> Tensor:
    """Logits of flat inputs x through (weight, bias) layers; `largest` per hidden layer, its batch's if None."""
    h = x
    for number, (w, b) in enumerate(layers):
        passed = torch.clamp(w, -1, 1) if bits == 1 else w
        w_q = passed + (weight(w, bits) - passed).detach()
        h = h @ w_q.T + b
        if number < len(layers) - 1:
            top = max(0.0, float(h.detach().max())) if largest is None else largest[number]
            value = activation(h, bits, top)
            clipped = torch.where(h > top, torch.full_like(h, top), torch.relu(h))
            passed = torch.clamp(h, -1, 1) if bits == 1 else clipped
            h = passed + (value - passed).detach()
    return h
