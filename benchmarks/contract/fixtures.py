"""The small world in which the contract is tested: 5 classes, 64 images of 8x8, a small CNN."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Loss, Method, Net

CLASSES = 5


class CheckFailedError(AssertionError):
    """The method breaks the contract; the message says how."""


class NotFiniteError(CheckFailedError):
    """Training cannot go on, so nothing else can be said about the method; the message says where."""


class NotTestedError(Exception):
    """The check does not apply; the message says why."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise CheckFailedError(message)


def step(run: Run) -> Tensor:
    """One step of training; the loss, float64.

    Raises:
        NotFiniteError: the loss or a weight is not.
    """
    number, loss = run.ctx.step, run.step().double()  # a copy: the next step changes what it returned
    require_finite(loss, f"at step {number}")
    bad = [name for name, weight in run.net.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise NotFiniteError(
            f"net.{bad[0]} is not finite after step {number}, whose loss is {float(loss):.4g}: its gradient is not, as"
            " that of sqrt(), norm() or log() at 0"
        )
    return loss


def require_finite(loss: Tensor, when: str) -> None:
    """Refuse a loss [] that is NaN or infinite: NotFiniteError."""
    if not loss.isfinite():
        raise NotFiniteError(f"the loss is {'NaN' if loss.isnan() else 'infinite'} {when}")


@cache
def small_suite(epochs: int = 40, precision: str = "float32") -> Suite:
    values = {
        "name": "contract",
        "title": "contract tests",
        "seeds": 1,
        "data": {"name": "synthetic", "validation": 20},
        "network": {"name": "cnn", "width": 4},
        "training": {"epochs": epochs, "batch_size": 32, "learning_rate": 5e-3, "precision": precision},
        "evaluation": {
            "points": 64,
            "epsilon": {"linf": 0.05, "l2": 0.25},
            "attacks": {"deepfool": {}, "fmn": {}},
            "certificates": {},
        },
    }
    return Suite(**values, folder=Path())  # type: ignore[arg-type]


@cache
def small_data(classes: int = CLASSES) -> Dataset:
    stream = torch.Generator().manual_seed(0)
    templates = torch.rand(classes, 1, 8, 8, generator=stream)

    def split(count: int) -> Split:
        y = torch.arange(count) % classes
        noise = 0.15 * torch.randn(count, 1, 8, 8, generator=stream)
        x = (templates[y] + noise).clamp(0, 1)
        return Split((255 * x).round().to(torch.uint8), y, 255)

    return Dataset(split(64), split(20), split(64), classes, "synthetic")


@dataclass(frozen=True)
class Stage:
    """A method with the network it built, a batch and a context, after `steps` steps of training."""

    method: Method
    net: Net
    batch: Batch
    ctx: Context


def loss_of(s: Stage) -> Loss:
    """Of its batch, as training computes it."""
    return s.method.loss(s.net, s.method.augment(s.batch, s.ctx), s.ctx)


def stage(method: Method, steps: int = 3, precision: str = "float32", data: Dataset | None = None) -> Stage:
    """A few steps into training, or near its end for a method that pretrains: warm-up effects are over."""
    run = Run(method, small_suite(precision=precision), data or small_data(), repetition=0)
    if "pretrained" in method.info.needs or hasattr(method, "pretrained"):  # also where only a preset does
        run.ctx.step = int(0.9 * run.ctx.steps)
    with torch.random.fork_rng(devices=[]):
        for _ in range(steps):
            step(run)
    index = torch.arange(32)
    batch = Batch(run.split.images(index), run.split.y[index], index)
    return Stage(method, run.net, batch, run.ctx)
