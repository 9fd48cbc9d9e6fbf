"""AM-Softmax and CosFace: the target cosine less a margin, one example at a time."""

import torch


def loss(net, x, y, *, s, m):
    """Mean cross-entropy; `net` has `features` and `head.weight`."""
    total = 0.0
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        logits = [s * (w @ phi) / (w.norm() * phi.norm()) for w in net.head.weight]
        logits[label] = logits[label] - s * m
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
