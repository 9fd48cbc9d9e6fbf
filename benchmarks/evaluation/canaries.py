"""Networks whose margins, or whose faults, are known: the evaluation must detect them.

Each goes through the same evaluation as any other network, in the tests and in `marginbench doctor`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.evaluation.canary import ANY, BACKWARD, Canary, affine_map, labelled, linear_margins
from marginbench.benchmarks.evaluation.conv_canaries import (
    convolutions,
    pooled,
    residual,
    solve,
    solved_residual,
    written_out,
)
from marginbench.benchmarks.evaluation.hard_canaries import ripples
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import NORMS, Net, Norm

__all__ = ["CANARIES", "Canary"]

SHAPE = (1, 8, 8)
CLASSES = 4
POINTS = 64


def linear(scale: float = 1.0, shift: float = 0.0) -> Canary:
    """A linear network: margin = min_{j != y} (z_y - z_j) / ||w_y - w_j||_q, away from the walls of the box."""
    stream = torch.Generator().manual_seed(1)
    net = make_net("linear", 1, SHAPE, CLASSES, torch.tensor([0.4]), torch.tensor([0.2]))
    weight = torch.randn(CLASSES, 64, generator=stream)
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(scale * weight)
        net.get_parameter("head.bias").copy_(torch.full((CLASSES,), shift))
    x = 0.5 + 0.05 * torch.randn(POINTS, *SHAPE, generator=stream)
    data = labelled(net, (255 * x).round().to(torch.uint8))
    images = data.test.images(slice(None))
    w = weight.double() / 0.2
    exact = linear_margins(w, -0.4 * w.sum(1), images)
    name = "linear" if scale == 1 and shift == 0 else f"linear, logits x {scale:g} {shift:+g}"
    proven = dict.fromkeys(NORMS, ANY)
    return Canary(
        name, net.eval(), data, exact, proven=proven, applies=ANY - {"alpha_crown"} | {"lipschitz"}, searched=True
    )


def coloured(*std: float) -> Canary:
    """A linear network of the channels with the least of the three `std`: ||z_1 - z_0|| is the product of norms.

    z_1 - z_0 = sum_i +-(x_i - 0.4) / min(std). With all channels the Lipschitz bound is exact in L-infinity, too.
    """
    stream = torch.Generator().manual_seed(5)
    scale, shape = torch.tensor(std), (3, 8, 8)
    net = make_net("linear", 1, shape, 2, torch.full((3,), 0.4), scale).eval()
    used = (scale == scale.min()).float()[:, None, None]
    signs = used * (torch.randint(0, 2, shape, generator=stream) * 2 - 1)
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(torch.stack([torch.zeros(192), signs.flatten()]))
        net.get_parameter("head.bias").zero_()
    x = (255 * (0.5 + 0.05 * torch.randn(2 * POINTS, *shape, generator=stream))).round().to(torch.uint8)
    weight, bias = affine_map(copy.deepcopy(net).double(), shape)
    near = linear_margins(weight, bias, x / 255)["linf"]
    data = labelled(net, x[near > 0.2 * near.median()])  # nearer to the boundary float32 decides
    exact = linear_margins(weight, bias, data.test.images(slice(None)))
    tight = ANY | {"lipschitz"}
    proven: dict[Norm, frozenset[str]] = {"l2": tight, "linf": tight if bool(used.all()) else ANY}
    title = f"colours, divided by {', '.join(f'{one:g}' for one in std)}"
    applies = ANY - {"alpha_crown"} | {"lipschitz"}
    return Canary(title, net, data, exact, 1e-4, proven=proven, applies=applies, attacks={"deepfool": {}})


def planted() -> Canary:
    """All gradients are 0, and behind a plane that no gradient shows every image is adversarial.

    z_1 - z_0 = 40 relu(c - mean(x)) - 1: class 1 where the mean of the pixels is below c - 1/40, and flat above c.
    An image with mean m has the L-infinity margin m - c + 1/40, and 8 times that in L2.
    """
    level = 0.5
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.ReLU())
    head = nn.Linear(1, 2)
    with torch.no_grad():
        body.get_parameter("1.weight").fill_(-1 / 64)
        body.get_parameter("1.bias").fill_(level)
        head.weight.copy_(torch.tensor([[0.0], [40.0]]))
        head.bias.copy_(torch.tensor([3.0, 2.0]))
    net = Net(nn.Identity(), body, head).eval()
    x = 0.55 + 0.05 * torch.randn(POINTS, *SHAPE, generator=torch.Generator().manual_seed(2))
    data = labelled(net, (255 * x.clamp(0, 1)).round().to(torch.uint8))
    far = data.test.images(slice(None)).double().flatten(1).mean(1) - level + 1 / 40
    doubts = frozenset({"zero_gradient", "unattacked", "black_box_wins"})
    return Canary("planted example", net, data, {"linf": far, "l2": 8 * far}, reach=None, applies=ANY, doubts=doubts)


def unused() -> Canary:
    """A linear network with one more class, which a bias of -inf masks: the margins are those without it."""
    plain = linear()
    head = nn.Linear(64, CLASSES + 1)
    with torch.no_grad():
        head.weight[:CLASSES] = plain.net.get_parameter("head.weight")
        head.bias.copy_(torch.tensor([0.0] * CLASSES + [-torch.inf]))
    net = Net(plain.net.normalise, plain.net.body, head).eval()
    return replace(plain, title="a class masked by -inf", net=net, data=labelled(net, plain.data.test.x))


def limited() -> Canary:
    """A linear network that first limits images to the box, of which most pixels are on the walls: nothing changes.

    But the slope of `clamp` is 0 there, so that attacks that take gradients on the walls would not see these pixels.
    """
    plain = linear().net
    weight, bias = affine_map(copy.deepcopy(plain).double(), SHAPE)
    x = (3 * torch.rand(2 * POINTS, *SHAPE, generator=torch.Generator().manual_seed(4)) - 1).clamp(0, 1)
    pixels = (255 * x).round().to(torch.uint8)
    net = _behind(_Limited(), plain).eval()
    near = linear_margins(weight, bias, pixels / 255)["linf"]
    data = labelled(net, pixels[near > 0.2 * near.median()])  # nearer to the boundary float32 decides
    exact = linear_margins(weight, bias, data.test.images(slice(None)))
    proven: dict[Norm, frozenset[str]] = {"linf": ANY, "l2": BACKWARD}
    return Canary(
        "limited to the box", net, data, exact, 1e-4, proven=proven, applies=ANY - {"alpha_crown"}, searched=True
    )


def weakly_attacked() -> Canary:
    """Many local maxima, and an attack of two steps among them."""
    hard = ripples()
    few = {"fmn": {"steps": 2}}
    return replace(hard, title="weak attacks", exact={}, doubts=frozenset({"weak_attack"}), attacks=few)


def masked() -> Canary:
    """A linear network behind a step function: its gradients are 0 everywhere."""
    plain = linear()
    return _doubted("masked gradients", _behind(_Steps(), plain.net), "zero_gradient")


def detached() -> Canary:
    """A linear network that hides a row of the image from the gradient: slopes are right nearly everywhere else."""
    return _doubted("one row detached", _behind(_Detached(), linear().net), "gradient_mismatch")


def straight_through() -> Canary:
    """A linear network behind steps as fine as pixels, with the gradient that it would have without them."""
    return _doubted("straight-through gradients", _behind(_StraightThrough(), linear().net), "gradient_mismatch")


def stochastic() -> Canary:
    """A linear network that adds noise to its features at each call."""
    plain = linear().net
    net = Net(plain.normalise, nn.Sequential(plain.body, _Noise()), plain.head)
    return _doubted("stochastic", net, "batch_dependence")


def probabilities() -> Canary:
    """A network that returns probabilities: where they round to 0 and 1 they have no gradient."""
    plain = linear(scale=100.0).net
    net = Net(plain.normalise, plain.body, nn.Sequential(plain.head, nn.Softmax(1)))
    return _doubted("probabilities", net, "returns_probabilities")


def solved() -> Canary:
    """A small ReLU network whose L-infinity margins a mixed-integer program gives to 0.1 %."""
    stream = torch.Generator().manual_seed(3)
    net = make_net("mlp", 8, SHAPE, CLASSES, torch.tensor([0.4]), torch.tensor([0.2]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream) / max(parameter[0].numel(), 1) ** 0.5)
    x = torch.rand(16, *SHAPE, generator=stream)
    data = labelled(net.eval(), (255 * x).round().to(torch.uint8))
    margin = solve(net, data.test.images(slice(None)), data.test.y)
    return Canary("ReLU, solved exactly", net, data, {"linf": margin}, 2e-3, 1.05, applies=ANY)


CANARIES: tuple[Callable[[], Canary], ...] = (
    linear,
    partial(linear, scale=100.0),
    partial(linear, scale=1e-6),
    partial(linear, scale=1.0, shift=-20.0),
    partial(coloured, 0.25, 0.25, 0.25),
    partial(coloured, 0.2, 0.25, 0.4),
    unused,
    limited,
    solved,
    convolutions,
    residual,
    pooled,
    written_out,
    ripples,
    solved_residual,
    planted,
    weakly_attacked,
    masked,
    detached,
    straight_through,
    stochastic,
    probabilities,
)


class _Limited(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


class _Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16


class _Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.arange(8, device=x.device).view(8, 1) == 3
        return torch.where(hidden, x.detach(), x)


class _StraightThrough(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + ((255 * x).round() / 255 - x).detach()


class _Noise(nn.Module):
    def forward(self, phi: Tensor) -> Tensor:
        return phi + 0.3 * torch.randn_like(phi)


def _behind(first: nn.Module, net: Net) -> Net:
    return Net(nn.Sequential(first, net.normalise), net.body, net.head)


def _doubted(title: str, net: Net, name: str, attacks: Mapping[str, Any] = PRESETS["quick"]) -> Canary:
    """A network about which one doubt must be raised, on the images of the linear one."""
    data = labelled(net.eval(), linear().data.test.x)
    return Canary(title, net, data, doubts=frozenset({name}), attacks=attacks)
