"""Models that keep something from one call to the next: refused where it decides, and evaluated where it does not."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn.utils import parametrizations, spectral_norm

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.unchanged import batches, changes_itself
from marginbench.methods import MarginbenchError


class Keeping(nn.Module):
    """A layer on images from which something is taken that `shift` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def shift(self, x: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x - self.shift(x))
        return z


class Average(Keeping):
    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.mean, self.momentum = torch.zeros(1, 1, 8, 8), momentum

    def shift(self, x: Tensor) -> Tensor:
        self.mean = self.mean + self.momentum * (x.detach().mean(0, keepdim=True) - self.mean)
        return self.mean


class InBuffer(Keeping):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, 8, 8))

    def shift(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(x.mean(0, keepdim=True), 1e-5)
        return self.mean


class InMapping(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, list[Tensor]] = {"means": [torch.zeros(())]}

    def shift(self, x: Tensor) -> Tensor:
        self.known["means"][0] = 0.999 * self.known["means"][0] + 0.001 * x.detach().mean()
        return self.known["means"][0]


@dataclass
class Statistics:
    means: list[float] = field(default_factory=lambda: [0.3])


class InObject(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()

    def shift(self, x: Tensor) -> float:
        self.statistics.means[0] += 1e-7 * float(x.detach().mean())
        return self.statistics.means[0]


class OfFirst(Keeping):
    """What was computed of the first images of a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, Tensor] = {}

    def shift(self, x: Tensor) -> Tensor:
        return self.known.setdefault(tuple(x.shape), x.detach().mean((2, 3), keepdim=True))


class OfTheVeryFirst(OfFirst):
    def shift(self, x: Tensor) -> Tensor:
        return self.known.setdefault("mean", x.detach().mean())


class History(OfFirst):
    def shift(self, x: Tensor) -> Tensor:
        self.known[len(self.known)] = x.detach().mean()
        return torch.stack(list(self.known.values())).mean()


class WarmUp(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def shift(self, x: Tensor) -> float:
        self.calls += 1
        return min(1.0, self.calls / 1e5)


class Scripted(nn.Module):
    mean: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.mean, self.layer = torch.tensor(start), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean + 1e-5 * (x.detach().mean() - self.mean)
        z: Tensor = self.layer((x - self.mean).flatten(1))
        return z


def quantised(*switches: Callable[[nn.Module], None]) -> nn.Module:
    """Activations rounded to 256 levels, in a range that observers took from some images."""
    model = nn.Sequential(quantization.FakeQuantize(), nn.Flatten(), nn.Linear(64, 10), quantization.FakeQuantize())
    model(images())
    for switch in switches:
        model.apply(switch)
    return model


def images() -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 2


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model)  # type: ignore[no-any-return]


def found(model: nn.Module) -> list[str]:
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return changes_itself(model, images(), batches(images()))


CHANGING: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "average": (lambda: Average(0.1), "mean"),
    "slow average": (lambda: Average(1e-5), "mean"),
    "so slow that rounding hides it": (lambda: Average(1e-8), "mean"),
    "slow average that began": (lambda: called(Average(1e-5)), "mean"),
    "slow average of one number": (lambda: scripted(Scripted(0.5)), "mean"),
    "buffer": (InBuffer, "mean"),
    "mapping": (InMapping, "known['means'][0]"),
    "object": (InObject, "statistics.means[0]"),
    "of the first images": (OfFirst, "known[(8, 1, 8, 8)]"),
    "of the very first images": (OfTheVeryFirst, "known['mean']"),
    "history": (History, "known[0]"),
    "count": (WarmUp, "calls"),
    "TorchScript": (lambda: scripted(Scripted(0.0)), "mean"),
    "inside": (lambda: nn.Sequential(nn.Identity(), InBuffer()), "1.mean"),
    "observed": (quantised, "3.activation_post_process.max_val"),
}


def called(model: nn.Module) -> nn.Module:
    model(images())
    return model


@pytest.mark.parametrize("kind", CHANGING)
def test_what_decides_is_named(kind: str) -> None:
    make, name = CHANGING[kind]
    assert name in found(make())


class Counting(Keeping):
    """Counts, notes and remembers, and decides by none of it."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))
        self.calls, self.total, self.log, self.last = 0, 0.0, [], None  # type: ignore[var-annotated]

    def shift(self, x: Tensor) -> float:
        self.count += len(x)
        self.calls += 1
        self.total += float(x.detach().mean())
        self.log.append(x.shape)
        self.last = (x, x.detach().mean())
        return 0.3


class Memo(Keeping):
    """The last result again for the same images."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.last is None or not torch.equal(self.last[0], x):
            self.last = x, self.layers(x)
        return self.last[1]


class Constants(Keeping):
    """A constant in each type or for each shape, made when it is first asked for."""

    def __init__(self, key: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.key, self.known = key, {}  # type: ignore[var-annotated]

    def shift(self, x: Tensor) -> Tensor:
        key = self.key(x)
        if key not in self.known:
            self.known[key] = torch.linspace(0, 0.3, 8, dtype=x.dtype).expand(x.shape if key == x.shape else (8, 8))
        return self.known[key]  # type: ignore[no-any-return]


class Matrix(Keeping):
    """A constant that is made once, in the type of the first images, and enters a product."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.matrix is None:
            self.matrix = torch.eye(64, dtype=x.dtype) - 0.1 * torch.eye(64, dtype=x.dtype).roll(1, 0)
        z: Tensor = self.layers(x @ self.matrix)
        return z


class Arriving(Keeping):
    """A power iteration that goes on in eval mode, and has arrived."""

    def __init__(self) -> None:
        super().__init__()
        root = torch.rand(64, 64, generator=torch.Generator().manual_seed(2))
        self.square, self.direction = root @ root.T, torch.ones(64) / 8
        for _ in range(200):
            self.shift(images())

    def shift(self, x: Tensor) -> Tensor:
        self.direction = nn.functional.normalize(self.square @ self.direction, dim=0)
        return self.direction.view(8, 8)


class Drawing(Keeping):
    """Another answer in each call: what a doubt says, and no state."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0) if own else None

    def shift(self, x: Tensor) -> Tensor:
        return torch.rand(8, 8) if self.generator is None else torch.tensor(self.generator.random((8, 8))).float()


class Building(nn.Module):
    """Makes its layers in the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.layers is None:
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10))
        z: Tensor = self.layers(x)
        return z


def with_old_spectral_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(64, 10)))


LASTING: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10), nn.Dropout()),
    "counting": Counting,
    "counting, called": lambda: called(Counting()),
    "memo": Memo,
    "memo, called": lambda: called(Memo()),
    "constant of the type": lambda: Constants(lambda x: x.dtype),
    "constant of the shape": lambda: Constants(lambda x: x.shape),
    "constant of the shape, called": lambda: called(Constants(lambda x: x.shape)),
    "matrix": Matrix,
    "arriving": Arriving,
    "drawing": lambda: Drawing(own=False),
    "drawing by itself": lambda: Drawing(own=True),
    "building": Building,
    "spectral norm": lambda: nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 10))),
    "spectral norm, old form": with_old_spectral_norm,
    "weight norm": lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 10))),
    "TorchScript": lambda: scripted(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))),
    "quantised": lambda: quantised(quantization.disable_observer),
    "observed and not quantised": lambda: quantised(quantization.disable_fake_quant),
}


@pytest.mark.parametrize("kind", LASTING)
def test_what_does_not_decide_is_let_through(kind: str) -> None:
    assert found(LASTING[kind]()) == []


@pytest.mark.parametrize("make", [lambda: Average(1e-5), InBuffer, OfFirst, OfTheVeryFirst])
def test_a_model_that_changes_itself_is_refused_in_one_line(make: Callable[[], nn.Module], tiny: Path) -> None:
    words = r"^model mine: the model changes itself when it is called \((mean|known)\): "
    with pytest.raises(MarginbenchError, match=words):
        evaluate_model(make(), suite=str(tiny), out=tiny.parent / "out", name="mine")


@cache
def trained_state() -> dict[str, Tensor]:
    """Of some steps of training, so that there are margins to enclose."""
    train = load_data("digits", 200, Path()).train
    with seeded(torch.device("cpu"), "test"):
        layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(layers.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(layers(train.images(slice(None))), train.y).backward()
        optimiser.step()
    return layers.state_dict()


@pytest.mark.parametrize("kind", ["constant of the type", "constant of the shape", "matrix"])
def test_constants_that_are_kept_are_bounded_and_checked_in_float64(kind: str, tiny: Path) -> None:
    """With the numbers of a model that makes them anew in each call."""

    class Anew(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            fresh = LASTING[kind]()
            fresh.layers = self.layers
            z: Tensor = fresh(x)
            return z

    models = {"kept": LASTING[kind](), "anew": Anew()}
    outcomes = {}
    for name, model in models.items():
        model.layers.load_state_dict(trained_state())  # type: ignore[union-attr]
        outcomes[name] = evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", name=name)
    kept, anew = outcomes["kept"], outcomes["anew"]
    assert kept.record.error is None
    assert not {"unchecked", "unconfirmed"} & kept.record.estimators["crown_l2"].keys()
    assert (kept.arrays["lower_l2_crown"] > 0).any()
    for key in ("lower_l2_crown", "upper_l2"):
        np.testing.assert_allclose(kept.arrays[key], anew.arrays[key], rtol=1e-4, atol=1e-6)
