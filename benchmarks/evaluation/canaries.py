"""Networks whose margins, or whose faults, are known: the evaluation must detect them.

Each goes through the same evaluation as any other network, in the tests and in `marginbench doctor`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates.milp import milp
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import NORMS, Net, Norm

SHAPE = (1, 8, 8)
CLASSES = 4
POINTS = 64
REACH = 0.2  # linear margins below it, in L-infinity, are not changed by the walls of the box


@dataclass(frozen=True)
class Canary:
    """A network with images of classes that it gives them, and what is known about it."""

    title: str
    net: Net
    data: Dataset
    exact: dict[Norm, Tensor] = field(default_factory=dict)  # [N] true margins in pixels, NaN where unknown
    tolerance: float = 1e-5  # relative, of the margins and of float32 distances
    tight: bool = True  # whether upper bounds must come within 2 % of the truth
    doubts: frozenset[str] = frozenset()  # one of them at least must be raised; without any, none may be


def linear(scale: float = 1.0, shift: float = 0.0) -> Canary:
    """A linear network: margin = min_{j != y} (z_y - z_j) / ||w_y - w_j||_q, far from the walls of the box."""
    stream = torch.Generator().manual_seed(1)
    net = make_net("linear", 1, SHAPE, CLASSES, torch.tensor([0.4]), torch.tensor([0.2]))
    weight = torch.randn(CLASSES, 64, generator=stream)
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(scale * weight)
        net.get_parameter("head.bias").copy_(torch.full((CLASSES,), shift))
    x = 0.5 + 0.05 * torch.randn(POINTS, *SHAPE, generator=stream)
    data = _labelled(net, (255 * x).round().to(torch.uint8))
    images = data.test.images(slice(None)).double()
    z = (images.flatten(1) - 0.4) / 0.2 @ weight.double().T
    y = data.test.y
    gaps = z.gather(1, y[:, None]) - z
    rows = (weight[y][:, None] - weight).double() / 0.2
    own = torch.nn.functional.one_hot(y, CLASSES).bool()
    exact: dict[Norm, Tensor] = {
        norm: (gaps / rows.norm(p=1 if norm == "linf" else 2, dim=2)).masked_fill(own, torch.inf).amin(1)
        for norm in NORMS
    }
    exact = {
        norm: margin.masked_fill(margin > REACH * (1 if norm == "linf" else 2), torch.nan)
        for norm, margin in exact.items()
    }
    name = "linear" if scale == 1 and shift == 0 else f"linear, logits x {scale:g} {shift:+g}"
    return Canary(name, net.eval(), data, exact)


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
    data = _labelled(net, (255 * x.clamp(0, 1)).round().to(torch.uint8))
    far = data.test.images(slice(None)).double().flatten(1).mean(1) - level + 1 / 40
    doubts = frozenset({"zero_gradient", "unattacked", "black_box_wins"})
    return Canary("planted example", net, data, {"linf": far, "l2": 8 * far}, tight=False, doubts=doubts)


def masked() -> Canary:
    """A linear network behind a step function: its gradients are 0 everywhere."""
    plain = linear()
    net = Net(nn.Sequential(_Steps(), plain.net.normalise), plain.net.body, plain.net.head)
    return Canary("masked gradients", net.eval(), _again(net, plain), doubts=frozenset({"zero_gradient"}))


def stochastic() -> Canary:
    """A linear network that adds noise to its features at each call."""
    plain = linear()
    net = Net(plain.net.normalise, nn.Sequential(*plain.net.body, _Noise()), plain.net.head)
    return Canary("stochastic", net.eval(), plain.data, doubts=frozenset({"batch_dependence"}))


def probabilities() -> Canary:
    """A network that returns probabilities: where they round to 0 and 1 they have no gradient."""
    plain = linear(scale=100.0)
    net = Net(plain.net.normalise, plain.net.body, nn.Sequential(plain.net.head, nn.Softmax(1)))
    return Canary("probabilities", net.eval(), plain.data, doubts=frozenset({"returns_probabilities"}))


def solved() -> Canary:
    """A small ReLU network whose L-infinity margins a mixed-integer program gives to 0.1 %."""
    stream = torch.Generator().manual_seed(3)
    net = make_net("mlp", 8, SHAPE, CLASSES, torch.tensor([0.4]), torch.tensor([0.2]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream) / max(parameter[0].numel(), 1) ** 0.5)
    x = torch.rand(16, *SHAPE, generator=stream)
    data = _labelled(net.eval(), (255 * x).round().to(torch.uint8))
    images = data.test.images(slice(None))
    found = milp(Query(net.decision_net(), images, data.test.y, "linf", 0.05, images, stream))
    if found.upper is None or found.solved is None:
        raise RuntimeError(found.reason)
    margin = found.upper.masked_fill(~found.solved | found.upper.isinf(), torch.nan).double()
    return Canary("ReLU, solved exactly", net, data, {"linf": margin}, tight=False, tolerance=2e-3)


CANARIES: tuple[Callable[[], Canary], ...] = (
    linear,
    lambda: linear(scale=100.0),
    lambda: linear(scale=1.0, shift=-20.0),
    solved,
    planted,
    masked,
    stochastic,
    probabilities,
)


class _Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16


class _Noise(nn.Module):
    def forward(self, phi: Tensor) -> Tensor:
        return phi + 0.3 * torch.randn_like(phi)


def _labelled(net: Net, x: Tensor) -> Dataset:
    """The images with the network's own predictions as labels, in all three splits."""
    with torch.no_grad():
        y = net(x.float() / 255).argmax(1)
    split = Split(x, y, 255)
    return Dataset(split, split, split, CLASSES, "canary")


def _again(net: Net, plain: Canary) -> Dataset:
    return _labelled(net.eval(), plain.data.test.x)
