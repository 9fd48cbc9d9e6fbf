"""Gradients that are not the slopes of the network are seen, in whatever part of the image; honest ones are not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation_support import no_certificate
from sklearn.datasets import load_digits
from torch import Tensor, nn

from marginbench.benchmarks.attacks import ray
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.evaluation import gradient
from marginbench.benchmarks.evaluation.coarse import hardly_measurable
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.methods import Net

Change = Callable[[Tensor], Tensor]


class Then(nn.Module):
    """A network between two functions."""

    def __init__(self, before: Change, net: nn.Module, after: Change) -> None:
        super().__init__()
        self.before, self.net, self.after = before, net, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def seen(net: nn.Module, x: Tensor | None = None) -> str | None:
    return gradient.gradient_mismatch(evidence(net, x))


def evidence(net: nn.Module, x: Tensor | None = None, upper: float = torch.inf) -> Evidence:
    x = small_data().test.images(slice(None)) if x is None else x
    with torch.no_grad():
        y = net(x).argmax(1)
    whole: Any = Net(nn.Identity(), nn.Sequential(net), nn.Identity()).eval().requires_grad_(False)
    arrays = {"label": y, "prediction": y, "upper_linf": torch.full((len(x),), upper)}
    return Evidence(whole, x, arrays, {}, {}, {}, {}, 5, no_certificate)


def detached(*places: int | slice) -> Change:
    def change(x: Tensor) -> Tensor:
        hidden = torch.zeros(64, dtype=torch.bool)
        for place in places:
            hidden[place] = True
        return torch.where(hidden.view(1, 8, 8), x.detach(), x)

    return change


def rounded(levels: int) -> Change:
    return lambda x: (levels * x).round() / levels


def straight_through(change: Change) -> Change:
    return lambda x: x + (change(x) - x).detach()


def on_rows(change: Change, rows: slice) -> Change:
    return lambda x: torch.cat([x[:, :, : rows.start], change(x[:, :, rows]), x[:, :, rows.stop :]], 2)


class Backward(torch.autograd.Function):
    """The images, with other gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:  # type: ignore[override]
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.change(gradient), None


def backward(change: Change) -> Change:
    return lambda x: Backward.apply(x, change)  # type: ignore[no-any-return, no-untyped-call]


FAULTS: dict[str, Change] = {
    "a row is detached": detached(slice(24, 32)),
    "two rows are detached": detached(slice(0, 16)),
    "every fourth pixel is detached": detached(slice(1, None, 4)),
    "a pixel is detached": detached(28),
    "16 levels, straight through": straight_through(rounded(15)),
    "256 levels, straight through": straight_through(rounded(255)),
    "two levels, straight through": straight_through(rounded(1)),
    "16 levels": rounded(15),
    "16 levels in a row": on_rows(rounded(15), slice(3, 4)),
    "16 levels in all rows but one": on_rows(rounded(15), slice(1, 8)),
    "256 levels in two rows": on_rows(rounded(255), slice(3, 5)),
    "the sign is flipped": backward(lambda g: -g),
    "noise": backward(lambda g: g + 0.5 * g.std() * torch.randn_like(g)),
    "too small": backward(lambda g: 0.7 * g),
    "limited a little inside the box": lambda x: x.clamp(1e-4, 1 - 1e-4),
    "limited a little below white": lambda x: x.clamp(max=1 - 1e-4),
    "black pixels are detached": lambda x: torch.where(x == 0, x, x.clamp(min=1e-4)),
    "too large next to black": lambda x: x + torch.where(x < 1e-5, x - x.detach(), 0.0),
    "too large on the left": backward(lambda g: g * torch.tensor([2.0] * 4 + [1.0] * 4).to(g)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_gradients_are_seen(trained: Net, fault: str) -> None:
    assert seen(Then(FAULTS[fault], trained, same)) is not None


def test_the_part_is_named(trained: Net) -> None:
    text = seen(Then(detached(slice(24, 32)), trained, same))
    assert text is not None and text.startswith("rows, part 4 of 8: at 100%")


SHAPE = (3, 10, 10)  # no row, column or channel holds a whole pattern
PARTS = dict(gradient._parts(SHAPE))


@pytest.mark.parametrize("name", PARTS)
def test_only_its_part_shows_a_small_lie(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are 12 % too small in one part: more than is allowed there, and less in all others."""
    monkeypatch.setattr(gradient, "POINTS", 120)  # so many that no other part shows it by chance
    stream = torch.Generator().manual_seed(0)
    layer = nn.Linear(300, 5)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(5, 300, generator=stream))
    x = torch.rand(120, *SHAPE, generator=stream)
    net = Then(backward(lambda g: g * (1 - 0.12 * PARTS[name])), nn.Sequential(nn.Flatten(), layer), same)
    text = seen(net, x)
    assert text is not None and text.startswith(f"{name}: at 100%")
    if name != "the whole image":  # of which all parts are parts
        rest = [(other, mask) for other, mask in PARTS.items() if other != name]
        monkeypatch.setattr(gradient, "_parts", lambda shape: rest)
        assert seen(net, x) is None


class Single(nn.Module):
    """Float32 whatever the images are."""

    def __init__(self, net: nn.Module, back: bool) -> None:
        super().__init__()
        self.net, self.back = [net], back

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net[0](x.float())
        return z.to(x.dtype) if self.back else z


HONEST: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda net: net,
    "softmax": lambda net: Then(same, net, lambda z: z.softmax(1)),
    "saturated softmax": lambda net: Then(same, net, lambda z: (10 * z).softmax(1)),
    "log softmax": lambda net: Then(same, net, lambda z: z.log_softmax(1)),
    "saturated sigmoids": lambda net: Then(same, net, lambda z: (3 * z).sigmoid()),
    "cosine": lambda net: Then(same, net, lambda z: 64 * nn.functional.normalize(z)),
    "tiny": lambda net: Then(same, net, lambda z: 1e-6 * z),
    "huge": lambda net: Then(same, net, lambda z: 1e6 * z),
    "shifted": lambda net: Then(same, net, lambda z: z + 1e4),
    "clamped": lambda net: Then(lambda x: x.clamp(0, 1), net, same),
    "limited from one side": lambda net: Then(lambda x: x.relu().clamp(max=1), net, same),
    "limited behind a normalisation": lambda net: Then(
        lambda x: ((x - 0.13) / 0.3).clamp(-0.13 / 0.3, 0.87 / 0.3), net, same
    ),
    "steep": lambda net: Then(lambda x: (20 * (x - 0.5)).tanh() / 2 + 0.5, net, same),
    "masked": lambda net: Then(same, net, lambda z: torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], 1)),
    "float32 alone": lambda net: Single(net, back=False),
    "float32 in float64's clothes": lambda net: Single(net, back=True),
    "bfloat16 logits": lambda net: Then(same, net, lambda z: z.bfloat16()),
}


def autocast(x: Tensor, net: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        z: Tensor = net(x)
    return z.float()


def parts(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Before the last layer, and the last layer."""
    assert isinstance(net, Net)
    return nn.Sequential(net.normalise, net.body), net.head


class Coarse(nn.Module):
    """A network that computes with few digits, in one of many ways."""

    def __init__(self, net: nn.Module, compute: Callable[[Tensor, nn.Module], Tensor], before: Change = same) -> None:
        super().__init__()
        self.net, self.compute, self.before = copy.deepcopy(net), compute, before

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self.before(x), self.net)


def between(kind: torch.dtype) -> Callable[[Tensor, nn.Module], Tensor]:
    def compute(x: Tensor, net: nn.Module) -> Tensor:
        body, head = parts(net)
        z: Tensor = head(body(x).to(kind).to(x.dtype))
        return z

    return compute


COARSE: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
    "autocast": autocast,
    "all in bfloat16": lambda x, net: net.bfloat16()(x.bfloat16()),
    "all in half precision": lambda x, net: net.half()(x.half()),
    "bfloat16 logits": lambda x, net: net(x).bfloat16().float(),
    "half logits": lambda x, net: net(x).half(),
    "features through half": between(torch.float16),
    "features through bfloat16": between(torch.bfloat16),
    "images through bfloat16": lambda x, net: net(x.bfloat16().to(x.dtype)),
}


@pytest.mark.parametrize("kind", COARSE)
def test_rounding_is_no_wrong_gradient(trained: Net, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Coarse(trained, COARSE[kind])
    assert seen(net) is None
    with monkeypatch.context() as without:
        without.setattr(gradient, "coarsest_type", lambda net, x: x.dtype)
        assert seen(net) is not None, "it would be taken for one by who does not know the type"


@pytest.mark.parametrize("kind", COARSE)
def test_gradients_far_off_are_seen_through_rounding(trained: Net, kind: str) -> None:
    assert seen(Coarse(trained, COARSE[kind], backward(lambda g: -g))) is not None
    if "half" in kind:
        assert seen(Coarse(trained, COARSE[kind], detached(slice(24, 32)))) is not None


def test_a_network_that_rounds_is_said_to_be_hard_to_measure(trained: Net) -> None:
    text = hardly_measurable(evidence(Coarse(trained, autocast)))
    assert text is not None and text.startswith("the network computes in bfloat16")
    assert hardly_measurable(evidence(trained)) is None


@pytest.mark.parametrize("kind", HONEST)
def test_honest_gradients_are_not_doubted(trained: Net, kind: str) -> None:
    assert seen(HONEST[kind](trained)) is None


@pytest.mark.parametrize("kind", ["clamped", "limited from one side", "limited behind a normalisation"])
def test_walls_that_mislead_attacks_are_seen(trained: Net, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: attacks take gradients on the walls."""
    monkeypatch.setattr(ray, "HAIR", 0.0)
    text = seen(HONEST[kind](trained))
    assert text is not None and text.startswith("pixels at")


def limited(hidden: Tensor) -> Change:
    """A little inside the box, where the mask says so."""
    return lambda x: torch.where(hidden, x.clamp(1e-4, 1 - 1e-4), x)


EVERY_SECOND = (torch.arange(64) % 2 == 0).view(1, 8, 8)
FIRST_CHANNEL = torch.tensor([True, False, False]).view(3, 1, 1)

STEEP: dict[str, Change] = {
    "square root": lambda x: (x + 1e-4).sqrt(),
    "logarithm": lambda x: (x + 1e-3).log(),
    "steeper logarithm": lambda x: (x + 1e-4).log(),
    "power": lambda x: x.clamp(min=0).add(1e-4).pow(0.4),
    "logarithm at white": lambda x: (1.001 - x).log(),
}
HIDING: dict[str, Change] = {
    "a channel": limited(FIRST_CHANNEL),
    "a channel, then a square root": lambda x: (limited(FIRST_CHANNEL)(x) + 1e-4).sqrt(),
    "every fourth pixel": limited((torch.arange(64) % 4 == 0).view(1, 8, 8)),
    "every second pixel": limited(EVERY_SECOND),
    "every second pixel, then a logarithm": lambda x: (limited(EVERY_SECOND)(x) + 1e-4).log(),
    "black": lambda x: x.clamp(min=1e-4),
    "black, then a square root": lambda x: x.clamp(min=1e-4).sqrt(),
    "black, then a power": lambda x: x.clamp(1e-4, 1) ** 0.45,
}


def of_digits(change: Change) -> tuple[nn.Module, Tensor]:
    """A small convolutional network behind a function, trained on digits in three channels; images."""
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    y = torch.tensor(digits.target)
    with seeded(torch.device("cpu"), "digits"):
        layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        net = Then(change, nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)), same)
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for rows in torch.randperm(len(x)).repeat(3).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval(), x[:200]


@pytest.mark.parametrize("kind", STEEP)
def test_functions_that_are_steepest_on_a_wall_are_not_doubted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = of_digits(STEEP[kind])
    assert seen(net, x) is None
    assert seen(Single(net, back=True), x) is None
    monkeypatch.setattr(gradient, "_NEXT", replace(gradient._NEXT, step=1e-3))
    text = seen(net, x)
    assert text is not None and text.startswith("pixels at"), "it would be by who looks farther"


@pytest.mark.parametrize("kind", HIDING)
def test_hidden_pixels_are_seen(kind: str) -> None:
    net, x = of_digits(HIDING[kind])
    for network in (net, Single(net, back=True)):
        text = seen(network, x)
        assert text is not None and text.startswith("pixels at")


@pytest.mark.parametrize("kind", ["float32 alone", "tiny", "huge"])
def test_a_detached_row_is_seen_in_logits_of_any_kind(trained: Net, kind: str) -> None:
    assert seen(HONEST[kind](Then(detached(slice(24, 32)), trained, same))) is not None


def test_ties_of_max_pooling_and_batch_norm_are_not_doubted() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 2)]
    net = nn.Sequential(*layers, nn.GELU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.LazyLinear(5)).eval()
    net(torch.zeros(1, 1, 8, 8))
    assert seen(net) is None


def test_a_part_with_more_kinks_than_midpoints_is_not_doubted() -> None:
    """Distances in L1 to prototypes that are near each other in a column, and near the images."""
    torch.manual_seed(0)
    x, prototypes = 0.1 + 0.8 * torch.rand(24, 1, 8, 8), torch.rand(5, 1, 8, 8)
    x[..., 0], prototypes[..., 0] = 0.5, 0.5 + 0.001 * torch.randn(5, 1, 8)

    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("prototypes", prototypes)

        def forward(self, x: Tensor) -> Tensor:
            return -(x[:, None] - self.get_buffer("prototypes")).abs().flatten(2).sum(2)

    assert seen(Distances(), x) is None
    assert seen(Then(detached(slice(0, 64, 8)), Distances(), same), x) is not None


def test_a_network_that_is_always_wrong_has_nothing_to_measure(trained: Net) -> None:
    x = small_data().test.images(slice(8))
    y = torch.zeros(8, dtype=torch.int64)
    arrays = {"label": y, "prediction": y + 1, "upper_linf": torch.zeros(8)}
    nothing = Evidence(trained, x, arrays, {}, {}, {}, {}, 5, no_certificate)
    assert gradient.gradient_mismatch(nothing) is None


def test_slopes_are_not_asked_for_where_another_class_is_nearer_than_segments_are_long() -> None:
    """As of naive Bayes with pixels that hardly vary: quadratic, and steep on the walls."""

    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            dark = x[:, :, :, :3].flatten(1)
            return torch.stack([1e6 * k * (dark - 1e-5 * k).square().sum(1) for k in range(5)], 1)

    x = small_data().test.images(slice(None)).clone()
    x[:, :, :, :3] = 0
    assert gradient.gradient_mismatch(evidence(Steep(), x)) is not None
    assert gradient.gradient_mismatch(evidence(Steep(), x, upper=1e-4)) is None
