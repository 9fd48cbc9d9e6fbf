"""PGD adversarial training, one example at a time."""

import torch


def cross_entropy(logits, label):
    return logits.exp().sum().log() - logits[label]


def attack(net, image, label, start, *, norm, epsilon, steps, step_scale):
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


def loss(net, x, y, starts, **settings):
    total = 0.0
    for image, label, start in zip(x, y.tolist(), starts, strict=True):
        delta = attack(net, image, label, start, **settings)
        total = total + cross_entropy(net((image + delta)[None])[0], label)
    return total / len(y)
