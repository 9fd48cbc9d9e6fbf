"""Cross-entropy after dropout with given masks, one example at a time."""

import torch
from torch import Tensor


def loss(features: Tensor, weight: Tensor, bias: Tensor, y: Tensor, masks: Tensor, p: float) -> Tensor:
    """Mean of -log softmax(W (mask * phi) / (1 - p) + b)_y."""
    total = features.new_zeros(())
    for phi, label, mask in zip(features, y, masks, strict=True):
        kept = torch.stack([value / (1 - p) if bit else 0 * value for value, bit in zip(phi, mask, strict=True)])
        logits = weight @ kept + bias
        total = total + torch.log(torch.exp(logits - logits[label]).sum())
    return total / len(features)
