"""Confidence-calibrated adversarial training, one example at a time."""

from typing import Any

import torch
from torch import Tensor

from marginbench.methods import Net
from marginbench.methods.facts import Norm


def attack(
    net: Net, image: Tensor, label: int, start: Tensor, *, norm: Norm, epsilon: float, steps: int, step_scale: float
) -> Tensor:
    """Raises the confidence in the most likely wrong class; `start` is the first perturbation, before the box."""
    length, best, kept = step_scale * epsilon / steps, -1.0, torch.zeros_like(image)
    velocity = unit = torch.zeros_like(image)
    trial = (image + start).clamp(0, 1) - image
    for _ in range(steps):
        delta = trial.clone().requires_grad_()
        z = net((image + delta)[None])[0]
        p = z.exp() / z.exp().sum()
        confidence = max((p[k] for k in range(len(p)) if k != label), key=lambda value: float(value.detach()))
        (gradient,) = torch.autograd.grad(confidence, delta)
        if confidence.item() > best:
            best, kept, unit = confidence.item(), trial, _unit(gradient, norm)
        else:
            length /= 1.5
        velocity = 0.9 * velocity + 0.1 * unit
        trial = kept + length * velocity
        if norm == "linf":
            trial = trial.clamp(-epsilon, epsilon)
        elif trial.norm() > epsilon:
            trial = trial * epsilon / trial.norm()
        trial = (image + trial).clamp(0, 1) - image
    return kept


def _unit(gradient: Tensor, norm: Norm) -> Tensor:
    return gradient.sign() if norm == "linf" else gradient / (gradient.norm() + 1e-12)


def target(delta: Tensor, label: int, classes: int, *, norm: Norm, epsilon: float, power: float) -> list[float]:
    size = delta.abs().max() if norm == "linf" else delta.norm()
    g = 1 - (1 - min(1.0, float(size) / epsilon)) ** power
    return [(1 - g) * (k == label) + g / classes for k in range(classes)]


def loss(
    net: Net, x: Tensor, y: Tensor, starts: Tensor, *, norm: Norm, epsilon: float, power: float, **settings: Any
) -> Tensor:
    half, total = len(y) // 2, x.new_zeros(())
    for i, (image, label) in enumerate(zip(x, y.tolist(), strict=True)):
        delta = torch.zeros_like(image)
        if i >= half:
            delta = attack(net, image, label, starts[i - half], norm=norm, epsilon=epsilon, **settings)
        z = net((image + delta)[None])[0]
        t = target(delta, label, len(z), norm=norm, epsilon=epsilon, power=power)
        total = total + sum(t[k] * (z.exp().sum().log() - z[k]) for k in range(len(z)))
    return total / len(y)
