"""Pairwise Margin Maximization, equations 7 to 10, one example at a time."""

import torch
from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def loss(net: Net, x: Tensor, y: Tensor, *, risk: str = "ce", form: str = "paper", alpha: float) -> Tensor:
    """Risk plus alpha times the regulariser; `net` has `features`, `head.weight` and `head.bias`."""
    weight, bias = head_weight(net), net.head.bias
    assert isinstance(bias, Tensor)
    zero = x.new_zeros(())
    risks, norms, radii = [], [], []
    for phi, label in zip(net.features(x), y.tolist(), strict=True):
        scores = [weight[k] @ phi + bias[k] for k in range(len(weight))]
        rivals = [k for k in range(len(weight)) if k != label]
        runner_up = max(rivals, key=lambda k: scores[k].item())
        if risk == "ce":
            risks.append(torch.stack([s - scores[label] for s in scores]).exp().sum().log())
        else:
            risks.append(torch.relu(1 - (scores[label] - scores[runner_up])))
        norms.append(sum(((weight[label, d] - weight[runner_up, d]) ** 2 for d in range(len(phi))), zero))
        radii.append(sum((value**2 for value in phi), zero))
    phi_max = max(radii, key=torch.Tensor.item)
    if form == "paper":
        regulariser = sum((norm * phi_max for norm in norms), zero) / len(norms)
    else:
        regulariser = phi_max * (sum((norm.sqrt() for norm in norms), zero) / len(norms)) ** 2
    return sum(risks, zero) / len(risks) + alpha * regulariser
