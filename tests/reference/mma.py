"""MMA, one example at a time: AN-PGD, bisection, and the loss at the boundary points."""

from typing import Any

import torch
from torch import Tensor

from marginbench.methods import Net
from marginbench.methods.facts import Norm


def soft_margin(logits: Tensor, label: int) -> Tensor:
    """Log of the sum of the rivals' exponentials, minus the logit of the label."""
    rivals = torch.stack([z for k, z in enumerate(logits) if k != label])
    return rivals.exp().sum().log() - logits[label]


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return torch.log1p(soft_margin(logits, label).exp())


def boundary(
    net: Net,
    image: Tensor,
    label: int,
    start: Tensor,
    radius: float,
    *,
    norm: Norm,
    steps: int,
    step_scale: float,
    bisections: int,
    limit: float,
) -> tuple[Tensor, float]:
    """Unit direction and distance of the boundary; `start` is the first perturbation, before the box."""
    delta = (image + start).clamp(0, 1) - image
    for _ in range(steps):
        delta = delta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(soft_margin(net((image + delta)[None])[0], label), delta)
        length = step_scale * radius / steps
        if norm == "linf":
            delta = (delta.detach() + length * gradient.sign()).clamp(-radius, radius)
        else:
            delta = delta.detach()
            if gradient.norm() > 0:
                delta = delta + length * gradient / gradient.norm()
            if delta.norm() > radius:
                delta = delta * radius / delta.norm()
        delta = (image + delta).clamp(0, 1) - image
    direction = delta / radius
    low, high, epsilon = 0.0, limit, radius
    for _ in range(bisections):
        probe = (image + epsilon * direction).clamp(0, 1)
        if soft_margin(net(probe[None])[0], label) < 0:
            low = epsilon
        else:
            high = epsilon
        epsilon = (low + high) / 2
    return direction, epsilon


def loss(
    net: Net, x: Tensor, y: Tensor, starts: Tensor, radii: Tensor, *, d_max: float, clean_weight: float, **attack: Any
) -> tuple[Tensor, list[float]]:
    """The objective, and the distances found, 0 where p_y <= 1/2. `radii` are those of the attack."""
    clean = margin = x.new_zeros(())
    distances = []
    for image, label, start, radius in zip(x, y.tolist(), starts, radii, strict=True):
        logits = net(image[None])[0]
        clean = clean + cross_entropy(logits, label)
        if soft_margin(logits, label) >= 0:
            margin = margin + cross_entropy(logits, label)
            distances.append(0.0)
            continue
        direction, epsilon = boundary(net, image, label, start, float(radius), limit=1.05 * d_max, **attack)
        distances.append(epsilon)
        if epsilon < d_max:
            margin = margin + cross_entropy(net((image + epsilon * direction)[None])[0], label)
    return (clean_weight * clean + (1 - clean_weight) * margin) / len(y), distances
