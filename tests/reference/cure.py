"""CURE, one example at a time."""

import torch
from torch import Tensor

from marginbench.methods import Net


def gradient(net: Net, image: Tensor, label: int) -> Tensor:
    logits = net(image[None])[0]
    risk = logits.exp().sum().log() - logits[label]
    return torch.autograd.grad(risk, image, create_graph=True)[0]


def penalty(net: Net, x: Tensor, y: Tensor, h: float, squared: bool = True) -> Tensor:
    """Batch mean of the (squared) change of the input gradient over a step of length h along its sign."""
    total = x.new_zeros(())
    for image, label in zip(x, y, strict=True):
        here = gradient(net, image.clone().requires_grad_(), label)
        sign = here.detach().sign()
        there = gradient(net, (image + h * sign / sign.norm().clamp_min(1e-12)).requires_grad_(), label)
        norm = torch.linalg.vector_norm(there - here)  # unlike a square root, finite gradient at 0
        total = total + (((there - here) ** 2).sum() if squared else norm)
    return total / len(x)
