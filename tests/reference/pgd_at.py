"""PGD adversarial training, one example at a time."""

from typing import Any

import torch
from torch import Tensor

from marginbench.methods import Net
from marginbench.methods.facts import Norm


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return logits.exp().sum().log() - logits[label]


def attack(
    net: Net, image: Tensor, label: int, start: Tensor, *, norm: Norm, epsilon: float, steps: int, step_scale: float
) -> Tensor:
    """The perturbation that PGD ends with; `start` is the first one, before the box."""
    delta = (image + start).clamp(0, 1) - image
    for _ in range(steps):
        delta = delta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(net((image + delta)[None])[0], label), delta)
        delta = delta.detach()
        length = step_scale * epsilon / steps
        if norm == "linf":
            delta = (delta + length * gradient.sign()).clamp(-epsilon, epsilon)
        else:
            if gradient.norm() > 0:
                delta = delta + length * gradient / gradient.norm()
            if delta.norm() > epsilon:
                delta = delta * epsilon / delta.norm()
        delta = (image + delta).clamp(0, 1) - image
    return delta


def loss(net: Net, x: Tensor, y: Tensor, starts: Tensor, **settings: Any) -> Tensor:
    total = x.new_zeros(())
    for image, label, start in zip(x, y.tolist(), starts, strict=True):
        delta = attack(net, image, label, start, **settings)
        total = total + cross_entropy(net((image + delta)[None])[0], label)
    return total / len(y)
