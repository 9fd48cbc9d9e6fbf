"""ArcFace by angles: arc cosine, shift, cosine, one example at a time."""

import math

import torch


def loss(net, x, y, *, s, m, easy_margin=False):
    """Mean cross-entropy of the shifted logits; `net` has `features` and `head.weight`."""
    total = 0.0
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        angles = [torch.acos(w @ phi / (w.norm() * phi.norm())) for w in net.head.weight]
        logits = [s * angle.cos() for angle in angles]
        theta = angles[label]
        if easy_margin:
            target = (theta + m).cos() if theta < math.pi / 2 else theta.cos()
        else:
            target = (theta + m).cos() if theta + m < math.pi else theta.cos() - m * math.sin(m)
        logits[label] = s * target
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
