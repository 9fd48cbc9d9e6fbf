"""What the scripts share: options, trained networks, turns, tables, and a line that says where it was measured.

The ways that a script compares take turns within each round, so that a busy machine slows all of them alike.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from tabulate import tabulate
from torch import Tensor

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import seconds_on
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, Norm, create, predicted_class

Work = TypeVar("Work")
Result = TypeVar("Result")
Clock = Callable[[], float]


class Option(NamedTuple):
    """An option of a script. Without a type, it has that of its default."""

    default: Any
    help: str
    type: Callable[[str], Any] | None = None
    choices: Sequence[str] | None = None


SHARED = {  # help for options of which a script gives the default alone
    "suite": "name or file of a suite",
    "methods": "methods, SPEC[,SPEC...]",
    "points": "test images",
    "rounds": "turns of everything that is compared",
    "steps": "training steps in a turn",
    "batch": "images in a training step",
    "size": "height and width of the images, which are noise",
    "width": "units or channels of the network",
    "device": "auto, cpu or cuda",
}


def parse(doc: str | None, **options: Any) -> argparse.Namespace:
    """The options of the command line, `--rival-points` as `rival_points`; `--help` shows the docstring as well.

    Args:
        options: an `Option` each, or the default of one of `SHARED`.
    """
    name = f"python -m {__package__}.{Path(sys.argv[0]).stem}"
    parser = argparse.ArgumentParser(name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key, given in options.items():
        option = given if isinstance(given, Option) else Option(given, SHARED[key])
        kind = option.type or type(option.default)
        shown = option.help if option.default is None else f"{option.help} (default: {option.default})"
        flag = f"--{key.replace('_', '-')}"
        if option.default is False:
            parser.add_argument(flag, action="store_true", help=option.help)
            continue
        parser.add_argument(flag, default=option.default, help=shown, type=kind, choices=option.choices)
    return parser.parse_args()


@dataclass(frozen=True)
class Classifier:
    """A network that was trained on a suite's data, frozen and in eval mode."""

    net: Net
    suite: Suite
    data: Dataset

    @classmethod
    def trained(cls, spec: str, suite: Suite, data: Dataset) -> "Classifier":
        """Train with a method and the suite's first seed, on the device of the data."""
        return cls(train(create(spec), suite, data, 0).net.eval().requires_grad_(False), suite, data)

    @torch.no_grad()
    def correct(self, images: Tensor, labels: Tensor) -> Tensor:
        """[C] int64 indices of the images [B, C, H, W] that are classified correctly."""
        logits: Tensor = self.net(images)
        return (predicted_class(logits) == labels).nonzero().squeeze(1)

    def query(self, x: Tensor, y: Tensor, norm: Norm, *stream: str) -> Query:
        """A query without reference images; `stream` names its random numbers."""
        generator = seeds.generator(x.device, *stream)
        return Query(self.net, x, y, norm, self.suite.evaluation.epsilon[norm], x[:0], generator)


@dataclass(frozen=True)
class Turns(Generic[Result]):
    """Seconds and results of each way, one for each round."""

    seconds: dict[str, list[float]]
    results: dict[str, list[Result]]

    def ratios(self, way: str, base: str) -> list[float]:
        """Seconds of one way relative to those of another, round by round."""
        return [a / b for a, b in zip(self.seconds[way], self.seconds[base], strict=True)]


def take_turns(ways: Mapping[str, Callable[[Work], Result]], rounds: Iterable[Work], clock: Clock) -> Turns[Result]:
    """In each round, give its work to every way, one after the other, and time it.

    Args:
        clock: in seconds; see `clock_of`.
    """
    turns: Turns[Result] = Turns({name: [] for name in ways}, {name: [] for name in ways})
    for work in rounds:
        for name, way in ways.items():
            start = clock()
            turns.results[name].append(way(work))
            turns.seconds[name].append(clock() - start)
    return turns


def clock_of(device: torch.device) -> Clock:
    """Wall time, read once the device has finished its work."""
    return partial(seconds_on, device)


def effort_clock_of(device: torch.device) -> Clock:
    """CPU time of this process on a CPU, which other processes do not lengthen; elsewhere `clock_of`."""
    return time.process_time if device.type == "cpu" else clock_of(device)


def noise(channels: int, size: int, count: int = 2048) -> Dataset:
    """Images of random pixels in 10 classes."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, channels, size, size), generator=stream, dtype=torch.uint8)
    split = Split(x, torch.arange(count) % 10, 255)
    return Dataset(split, split, split, 10, "noise")


def table(rows: Iterable[Sequence[object]], headers: Sequence[str], formats: Sequence[str]) -> str:
    """A Markdown table; a cell that is None becomes `-`."""
    return tabulate(rows, headers, tablefmt="github", floatfmt=formats, missingval="-")


def where(data: Dataset, *more: str) -> str:
    """The conditions that a reader needs beside any time."""
    device = data.train.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    shape, threads = "x".join(map(str, data.shape)), f"CPU threads: {torch.get_num_threads()}"
    return ", ".join([f"images {shape}", *more, name, threads, f"torch {torch.__version__}"])
