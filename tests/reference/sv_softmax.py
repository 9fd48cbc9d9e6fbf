"""SV-Softmax and MV-Softmax as weighted rivals in the softmax, one example at a time."""

import math

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(
    net: Net,
    x: Tensor,
    y: Tensor,
    *,
    s: float,
    t: float,
    m: float = 0.0,
    form: str = "sv",
    emphasis: str = "adaptive",
    easy_margin: bool = False,
) -> Tensor:
    """Mean of -log p_y; a rival that beats the target has weight h = exp(s (t - 1) (cos + 1)), or exp(s (t - 1))."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        cosines = [w @ phi / (w.norm() * phi.norm()) for w in head_weight(net)]
        target = own = cosines[label]
        if form == "am":
            target = own - m
        if form == "arc":
            theta = torch.acos(own)
            target = (theta + m).cos() if theta + m < math.pi else own - m * math.sin(m)
        final = own if easy_margin and own <= 0 else target
        rivals = x.new_zeros(())
        for k, c in enumerate(cosines):
            if k != label:
                h = torch.ones_like(c)
                if c > target:
                    h = (s * (t - 1) * (c + 1 if emphasis == "adaptive" else 1 + 0 * c)).exp()
                rivals = rivals + h * (s * (c - final)).exp()
        total = total + torch.log1p(rivals)
    return total / len(y)
