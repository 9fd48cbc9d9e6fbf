"""Large Margin Deep Networks, one example, layer and rival at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.methods import Net
from marginbench.methods.facts import Norm


def forward(net: Net, image: Tensor) -> tuple[list[nn.Module], list[int]]:
    """All tensors from which the rest of the network can be told: the image, then what weighted layers read."""
    modules = [net.normalise, *net.body, net.head]
    weighted = [i for i, module in enumerate(modules) if list(module.parameters())]
    return modules, [0, *weighted[1:]]


def run(modules: Sequence[nn.Module], start: int, h: Tensor) -> Tensor:
    for module in modules[start:]:
        h = module(h)
    return h[0]


def distances(
    net: Net,
    image: Tensor,
    label: int,
    *,
    layers: str,
    norm: Norm,
    on: str,
    top_k: int,
    full: bool,
    linf_gradient: str = "sum",
) -> list[list[Tensor]]:
    """The rows are layers, the columns rivals."""
    modules, starts = forward(net, image)
    if layers != "all":
        starts = starts[:1] if layers == "input" else starts[1:]

    def scores(start: int, h: Tensor) -> Tensor:
        z = run(modules, start, h)
        return z.exp() / z.exp().sum() if on == "probabilities" else z

    f = scores(0, image[None])
    rivals = sorted((k for k in range(len(f)) if k != label), key=lambda k: -float(f[k].detach()))[:top_k]
    rows = []
    for start in starts:
        h = image[None]
        for module in modules[:start]:
            h = module(h)
        row = []
        for rival in rivals:
            point = h if h.requires_grad else h.clone().requires_grad_()
            pair = scores(start, point)
            (gradient,) = torch.autograd.grad(pair[label] - pair[rival], point, create_graph=True)
            size = gradient.abs().sum()
            if norm == "l2" and size > 0:
                size = gradient.square().sum().sqrt()
            if norm == "linf" and linf_gradient == "mean":
                size = size / gradient.numel()
            row.append((f[label] - f[rival]) / ((size if full else size.detach()) + 1e-6))
        rows.append(row)
    return rows


def loss(
    net: Net,
    x: Tensor,
    y: Tensor,
    *,
    gamma: float,
    clip: float | None,
    aggregation: str,
    weight: float,
    ce_weight: float,
    **settings: Any,
) -> Tensor:
    risk = margin = x.new_zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        z = net(image[None])[0]
        risk = risk + z.exp().sum().log() - z[label]
        rows = distances(net, image, label, **settings)
        for row in rows:
            lowest = -torch.inf if clip is None else gamma * (1 - clip)
            hinges = torch.stack([(gamma - d.clamp_min(lowest)).clamp_min(0) for d in row])
            margin = margin + (hinges.max() if aggregation == "max" else hinges.sum()) / len(rows)
    return (ce_weight * risk + weight * margin) / len(y)
