"""Mixup with a given share and given partners, one pair at a time."""

import torch


def loss(net, x, y, share, partners):
    """Mean of share * CE(y_i) + (1 - share) * CE(y_partner) at share * x_i + (1 - share) * x_partner."""
    total = 0.0
    for i, j in enumerate(partners):
        logits = net((share * x[i] + (1 - share) * x[j])[None])[0]
        normaliser = torch.log(torch.exp(logits - logits.max()).sum()) + logits.max()
        total = total + share * (normaliser - logits[y[i]]) + (1 - share) * (normaliser - logits[y[j]])
    return total / len(x)
