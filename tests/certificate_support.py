"""What the tests of the certificates share: small networks, CROWN in one call, and an exact minimum."""

from typing import Any

import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _bounds, crown
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import Norm

SHAPE = (1, 8, 8)


def certify(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    norm: Norm,
    method: _bounds.Bound = "CROWN",
    upper: Tensor | None = None,
    **settings: Any,
) -> Any:
    return crown.certified_radius(a_query(net, x, label, norm, upper=upper), _bounds.Search(method, **settings))


def network(kind: str, seed: int, classes: int = 5, width: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make_net(kind, width, SHAPE, classes, torch.tensor([0.3]), torch.tensor([0.4])).eval()
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.data *= 2
    return net.decision_net()


def images(count: int, seed: int = 0) -> Tensor:
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return (1.6 * x - 0.3).clamp(0, 1)  # pixels at the edges of the box, as in real images


def predicted(net: nn.Sequential, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = net(x)
    return logits.argmax(1)


def least_by_bisection(a: Tensor, low: Tensor, high: Tensor, epsilon: Tensor) -> Tensor:
    """The exact min a.d over the ball and the box: d = clip(-a / t) with the t at which |d| = epsilon."""
    low, high, epsilon = low[:, None], high[:, None], epsilon[:, None]
    small, large = torch.full_like(a[..., 0], 1e-9), torch.full_like(a[..., 0], 1e9)
    for _ in range(100):
        t = (small * large).sqrt()
        d = torch.clamp(-a / t[..., None], low, high)
        outside = d.norm(dim=-1) > epsilon
        small, large = torch.where(outside, t, small), torch.where(outside, large, t)
    return (a * torch.clamp(-a / large[..., None], low, high)).sum(-1)
