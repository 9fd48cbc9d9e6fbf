"""Input-gradient regularisation, one example at a time."""

import torch
from torch import Tensor

from marginbench.methods import Net


def penalty(net: Net, x: Tensor, y: Tensor, uniform: bool = False) -> Tensor:
    """Batch mean of the squared norms of the input gradients of each example's own cross-entropy."""
    total = x.new_zeros(())
    for image, label in zip(x, y, strict=True):
        leaf = image[None].clone().requires_grad_()
        logits = net(leaf)[0]
        log_p = logits - logits.exp().sum().log()
        risk = -sum(log_p) / len(log_p) if uniform else -log_p[label]
        (gradient,) = torch.autograd.grad(risk, leaf, create_graph=True)
        total = total + (gradient**2).sum()
    return total / len(x)
