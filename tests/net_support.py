"""What the tests of the networks share: small networks of a name, fresh or trained, images for them, an attack."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.methods import Net

CLASSES = 3


def build(name: str, shape: tuple[int, int, int] | None = None, width: int = 4, seed: int = 0) -> Net:
    """A small network of the name, by default for the smallest images."""
    least = max(8, NETWORKS[name].smallest)
    shape = shape or (3, least, least)
    grey = torch.full((shape[0],), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_net(name, width, shape, CLASSES, grey, 0.6 * grey)


def images(name: str, count: int, seed: int = 0) -> Tensor:
    least = max(8, NETWORKS[name].smallest)
    return torch.rand(count, 3, least, least, generator=torch.Generator().manual_seed(seed))


def trained(name: str, width: int = 2) -> tuple[Net, Tensor, Tensor]:
    """A network after a few steps, with statistics of batch norm; eight images and their labels."""
    net = build(name, width=width)
    g = torch.Generator().manual_seed(1)
    templates = images(name, CLASSES)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(count) % CLASSES
        return (templates[y] + 0.1 * torch.randn(templates[y].shape, generator=g)).clamp(0, 1), y

    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        for _ in range(40):
            x, y = draw(24)
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
    x, y = draw(8)
    net = net.eval().requires_grad_(False)
    assert (net(x).argmax(1) == y).all()
    return net, x, y


def least_gap(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z: Tensor = net(x)
    own = z.gather(1, y[:, None])[:, 0]
    return own - z.scatter(1, y[:, None], -torch.inf).amax(1)


def attacked(net: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: str, steps: int = 20) -> Tensor:
    """Images within the radii [B] that a few gradient steps find, in float64."""
    reach = radius[:, None, None, None]
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        (g,) = torch.autograd.grad(least_gap(net, x + delta, y).sum(), delta)
        if norm == "linf":
            delta = (delta.detach() - 0.5 * reach * g.sign()).clamp(-reach, reach)
        else:
            delta = delta.detach() - 0.5 * reach * F.normalize(g.flatten(1)).view_as(g)
            length = delta.flatten(1).norm(dim=1)[:, None, None, None]
            delta = delta * (reach / length).clamp(max=1)
    return x + delta.detach()
