"""Cross-Lipschitz regularisation by its sum over all pairs of classes, one example at a time."""

import torch
from torch import Tensor

from marginbench.methods import Net


def penalty(net: Net, x: Tensor) -> Tensor:
    """Batch mean of 1/K^2 sum_{l, m} ||grad z_l - grad z_m||^2."""
    total = x.new_zeros(())
    for image in x:
        leaf = image[None].clone().requires_grad_()
        rows = [torch.autograd.grad(logit, leaf, create_graph=True)[0] for logit in net(leaf)[0]]
        pairs = sum(((a - b) ** 2).sum() for a in rows for b in rows)
        total = total + pairs / len(rows) ** 2
    return total / len(x)
