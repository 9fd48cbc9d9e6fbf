"""SV-Softmax and MV-Softmax as weighted rivals in the softmax, one example at a time."""

import math

import torch


def loss(net, x, y, *, s, t, m=0.0, form="sv", emphasis="adaptive", easy_margin=False):
    """Mean of -log p_y; a rival that beats the target has weight h = exp(s (t - 1) (cos + 1)), or exp(s (t - 1))."""
    total = 0.0
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        cosines = [w @ phi / (w.norm() * phi.norm()) for w in net.head.weight]
        target = own = cosines[label]
        if form == "am":
            target = own - m
        if form == "arc":
            theta = torch.acos(own)
            target = (theta + m).cos() if theta + m < math.pi else own - m * math.sin(m)
        final = own if easy_margin and own <= 0 else target
        rivals = 0.0
        for k, c in enumerate(cosines):
            if k != label:
                h = 1.0
                if c > target:
                    h = (s * (t - 1) * (c + 1 if emphasis == "adaptive" else 1 + 0 * c)).exp()
                rivals = rivals + h * (s * (c - final)).exp()
        total = total + torch.log1p(rivals)
    return total / len(y)
