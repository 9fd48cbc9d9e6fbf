"""Deep Defense, one image at a time; DeepFool is handed in."""

import math
from collections.abc import Callable

from torch import Tensor

from marginbench.methods import Net

Search = Callable[[Net, Tensor, int], tuple[Tensor, bool, bool]]  # perturbation, correct, crossed


def loss(net: Net, x: Tensor, y: Tensor, *, deepfool: Search, weight: float, c: float, d: float) -> Tensor:
    risk = penalty = x.new_zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        z = net(image[None])[0]
        risk = risk + z.exp().sum().log() - z[label]
        delta, correct, _ = deepfool(net, image, label)
        size = delta.square().sum().sqrt() if delta.any() else delta.sum()
        rho = size / image.square().sum().sqrt()
        penalty = penalty + ((-c * rho).exp() if correct else (d * rho).clamp_max(math.log(50)).exp())
    return (risk + weight * penalty) / len(y)
