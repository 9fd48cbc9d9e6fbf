"""Kobayashi's regulariser as half a symmetric divergence, one example at a time."""

import torch


def regulariser(z, label):
    """(KL(q | u) + KL(u | q)) / 2 for q the softmax of the rivals' logits and u uniform."""
    rivals = torch.stack([z[k] for k in range(len(z)) if k != label])
    q = (rivals - rivals.max()).exp() / (rivals - rivals.max()).exp().sum()
    u = 1 / len(rivals)
    forward = sum(value * (value / u).log() for value in q)
    backward = sum(u * (u / value).log() for value in q)
    return (forward + backward) / 2


def loss(net, x, y, *, weight, deg_logit):
    """Mean of the cross-entropy with a lowered target plus weight times the regulariser."""
    total = 0.0
    for z, label in zip(net(x), y.tolist(), strict=True):
        lowered = torch.stack([value - deg_logit if k == label else value for k, value in enumerate(z)])
        risk = (lowered - lowered[label]).exp().sum().log()
        total = total + risk + weight * regulariser(z, label)
    return total / len(y)
