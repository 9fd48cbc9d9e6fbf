"""Virtual Softmax: the virtual class weight is written out, one example at a time."""

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over K + 1 classes; `net` has `features` and `head.weight`."""
    total = x.new_zeros(())
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        virtual = head_weight(net)[label].norm() * phi / phi.norm()
        logits = [w @ phi for w in [*head_weight(net), virtual]]
        total = total + torch.stack([z - logits[label] for z in logits]).exp().sum().log()
    return total / len(y)
