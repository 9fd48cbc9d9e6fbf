"""Adversarial Margin Maximization, one example at a time, with its DeepFool."""

import math
from typing import Any

import torch
from torch import Tensor

from marginbench.methods import Net


def deepfool(
    net: Net, image: Tensor, label: int, *, steps: int, rivals: int, overshoot: float
) -> tuple[Tensor, bool, bool]:
    """The perturbation with its graph, whether the image is correct, whether it changed sides."""

    def gaps(point: Tensor) -> dict[int, Tensor]:
        z = net(point[None])[0]
        return {k: z[k] - z[label] for k in range(len(z)) if k != label}

    r = torch.zeros_like(image)
    correct = all(float(v.detach()) < 0 for v in gaps(image).values())
    for _ in range(steps):
        point = (image + r) if r.requires_grad else (image + r).requires_grad_()
        f = gaps(point)
        inside = all(float(v.detach()) < 0 for v in f.values())
        if inside != correct:
            break
        best = None
        for k in sorted(f, key=lambda k: -float(f[k].detach()))[:rivals]:
            (gradient,) = torch.autograd.grad(f[k], point, create_graph=True)
            if gradient.any():
                distance = float((-f[k] / gradient.norm()).detach())
                if best is None or distance < best[0]:
                    best = (distance, f[k], gradient)
        if best is None:
            break
        _, value, gradient = best
        r = r - (1 + overshoot) * value / gradient.square().sum() * gradient
    after = all(float(v.detach()) < 0 for v in gaps(image + r).values())
    return r, correct, after != correct


def shrink(name: str, n: Tensor, c: float) -> Tensor:
    if name == "exp":
        return (-c * n).exp()
    if name == "inverse":
        return 1 / (1 + c * n)
    return -c * n if name == "linear" else (c - n).clamp_min(0)


def grow(name: str, n: Tensor, c: float, d: float) -> Tensor:
    if name == "exp":
        return (d * n).clamp_max(math.log(50)).exp()
    if name == "inverse":
        return 1 / (1 - d * n) if float(n.detach()) * d < 1 - 1 / 50 else n * 0 + 50
    return d * n if name == "linear" else (c + n).clamp_min(0)


def loss(
    net: Net,
    x: Tensor,
    y: Tensor,
    *,
    shrinkage: str,
    aggregation: str,
    weight: float,
    c: float,
    d: float,
    top_share: float,
    **attack: Any,
) -> Tensor:
    found = [deepfool(net, image, label, **attack) for image, label in zip(x, y.tolist(), strict=True)]
    lengths = [r.square().sum().sqrt() if r.any() else r.sum() for r, _, _ in found]
    chosen = [i for i, (_, correct, crossed) in enumerate(found) if correct and crossed]
    if aggregation == "min":
        ranked = sorted(chosen, key=lambda i: float(lengths[i].detach()))
        allowed = ranked[: math.ceil(top_share * len(y))]
        chosen = [next(i for i in ranked if y[i] == k) for k in {int(y[i]) for i in chosen}]
        chosen = [i for i in chosen if i in allowed]
    zero = x.new_zeros(())
    total = sum((shrink(shrinkage, lengths[i], c) for i in chosen), zero)
    wrong = [i for i, (_, correct, crossed) in enumerate(found) if crossed and not correct]
    total = total + sum((grow(shrinkage, lengths[i], c, d) for i in wrong), zero)
    risk = zero
    for image, label in zip(x, y.tolist(), strict=True):
        z = net(image[None])[0]
        risk = risk + z.exp().sum().log() - z[label]
    return (risk + weight * total) / len(y)
