"""What the tests of the attacks share: networks whose margins are known, one call of an attack, suites with attacks."""

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import tighten
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.methods import Norm

SHAPE = (1, 6, 6)
EPSILON: dict[Norm, float] = {"l2": 1.0, "linf": 0.25}
TABLE = """[evaluation.attacks]
deepfool = { steps = 5 }
blend = {}
"""
MINIMUM_NORM = [name for name, one in ATTACKS.items() if one.minimum_norm]


def random_net(seed: int, classes: int = 5, width: int | None = 32) -> nn.Sequential:
    """A linear network, or one with a hidden layer, whose decision boundaries meet near the grey image."""
    draw = torch.Generator().manual_seed(seed)
    inputs = math.prod(SHAPE)
    sizes = [inputs, classes] if width is None else [inputs, width, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data = torch.randn(fan_out, fan_in, generator=draw) / math.sqrt(fan_in)
        layer.bias.data.zero_()
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    net[-1].bias.data = -net(torch.full((1, *SHAPE), 0.5))[0]
    return net


def images(seed: int, count: int, spread: float) -> Tensor:
    """Uniform noise around grey; a spread above 1 puts many pixels on the border of the box."""
    noise = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return (0.5 + spread * (noise - 0.5)).clamp(0, 1)


def predicted(net: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits.argmax(1)


def propose_by(
    attack: Attack, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float | None = None, **settings: Any
) -> Tensor:
    q = a_query(net, x, y, norm, seed=3, epsilon=epsilon or EPSILON[norm], reference=images(9, 40, 1.0))
    return attack.propose(q, **settings)


def propose(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, **settings: Any) -> Tensor:
    return propose_by(ATTACKS[name], net, x, y, norm, **settings)


def found(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, **settings: Any) -> Tensor:
    return tighten(net, x, propose(name, net, x, y, norm, **settings), y, norm, steps=24)[1]


def margin_without_box(net: nn.Sequential, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """min_j (z_y - z_j) / ||w_y - w_j||_dual."""
    weight = net[-1].weight
    assert isinstance(weight, Tensor)
    difference = weight[None] - weight[y][:, None]
    dual = difference.norm(dim=2) if norm == "l2" else difference.abs().sum(2)
    z: Tensor = net(x)
    return ((z.gather(1, y[:, None]) - z) / dual).scatter(1, y[:, None], torch.inf).amin(1)


class Scaled(nn.Module):
    """a z + b."""

    def __init__(self, net: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits * self.scale + self.shift


class Constant(nn.Module):
    """The same logits for every image, with or without a graph to the input."""

    def __init__(self, classes: int, graph: bool) -> None:
        super().__init__()
        self.classes, self.graph = classes, graph

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.arange(self.classes, 0.0, -1.0).expand(len(x), -1)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if self.graph else logits.clone()


def ignores_other_images(attack: Attack, norm: Norm, **settings: Any) -> bool:
    """Are the points for the last images the same, whatever the first images of the batch are?

    Batches of equal shape get the same random numbers, so that attacks with random starts can be asked, too.
    """
    net, x = random_net(16), images(16, 24, 1.0)
    hidden = net[1].weight
    assert isinstance(hidden, Tensor)
    hidden.data *= torch.linspace(0.2, 3, 32)[:, None]
    y = predicted(net, x)
    others = images(17, 12, 0.2)
    batches = [(x, y), (torch.cat([others, x[12:]]), torch.cat([predicted(net, others), y[12:]]))]
    first, second = (
        propose_by(attack, net, *batch, norm, epsilon=EPSILON[norm] / 2, **settings)[12:] for batch in batches
    )
    return torch.allclose(first, second, atol=1e-4)


def with_attacks(tiny: Path, text: str, name: str = "other.toml") -> Path:
    """The tiny suite with other attacks: a table, or a line in [evaluation]."""
    suite = tiny.read_text()
    assert TABLE in suite
    if text.startswith("[evaluation.attacks"):
        suite = suite.replace(TABLE, text)
    else:
        suite = suite.replace(TABLE, "").replace("points = 30", f"points = 30\n{text}")
    path = tiny.parent / name
    path.write_text(suite)
    return path
