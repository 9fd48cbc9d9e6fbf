"""What one GPU makes of this benchmark: the figures that are worth knowing before a long run, in five minutes.

A training step by network, done as it comes and recorded, and of several trainings at once, whose networks are held
against those of the same trainings alone; one forward and backward pass of an attack by precision and layout; the
seconds of an evaluation by part. Each part says what it is. Without a CUDA device the script says so and
ends with exit code 2; `--device cpu --small` runs every part at a size whose figures mean nothing.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.device import no_tf32, resolve_device
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.loop import How, Trained, train
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.benchmarks.training.run import Run
from marginbench.benchmarks.training.together import Entrant, train_together
from marginbench.methods import Net, create
from marginbench.methods.errors import ParameterError

IMAGES = 1000  # in one pass of an attack
EPOCHS = (1, 6)  # of two trainings, whose difference has no recording in it
TOGETHER = 3  # rows of the headline suite that are trained in one group and alone
TRIAL = {"training.epochs": 4, "data.train_size": 20_000}  # of the network that is evaluated
SMALL = {
    "network.width": 4,
    "training.epochs": 8,
    "evaluation.points": 8,
    "evaluation.attacks": {"fmn": {"steps": 5}, "noise": {}},
    "evaluation.certificates": {"lipschitz": {}},
}


@dataclass(frozen=True)
class Subject:
    """What is measured, and how long."""

    suite: Suite
    data: Dataset  # on the device
    networks: Sequence[str]
    steps: int  # in a turn
    rounds: int
    sizes: Sequence[int]  # of groups

    @property
    def device(self) -> torch.device:
        return self.data.train.device


class Part(NamedTuple):
    """One table."""

    title: str
    headers: Sequence[str]
    formats: Sequence[str]
    rows: Callable[[Subject], list[tuple[object, ...]]]


def main() -> None:
    words = turns.parse(
        __doc__,
        networks=turns.Option("resnet20,resnet44,wrn_28_10", "whose steps are timed"),
        groups=turns.Option("1,3,6,8", "trainings in a group"),
        steps=60,
        rounds=5,
        device="cuda",
        small=turns.Option(False, "the digits and a tiny network, to see that everything runs"),
        data_dir=turns.Option(None, "folder of data sets, see run-all", str),
    )
    try:
        device = resolve_device(words.device)
    except ParameterError as error:
        print(f"there is no GPU to measure: {error.problem} (with --small, to see what is measured)", file=sys.stderr)
        raise SystemExit(2) from None
    suite = derive(load_suite("digits"), SMALL) if words.small else load_suite("cifar10")
    networks = ["cnn"] if words.small else words.networks.split(",")
    steps, rounds = (2, 1) if words.small else (words.steps, words.rounds)
    groups = [1, 2] if words.small else [int(text) for text in words.groups.split(",")]
    data = suite.load_data(data_folder(words.data_dir)).to(device)
    subject = Subject(suite, data, networks, steps, rounds, groups)
    print(turns.where(subject.data, f"batch {suite.training.batch_size}", suite.training.precision))
    for part in PARTS:
        table = turns.table(part.rows(subject), part.headers, part.formats)
        print(f"\n{part.title}\n\n{table}", flush=True)


def step_rows(of: Subject) -> list[tuple[object, ...]]:
    """Each network's step of ce, as it comes and, on CUDA, replayed."""
    rows: list[tuple[object, ...]] = []
    for name in of.networks:
        suite = derive(of.suite, {"network.name": name})
        for way, eager in (("as it comes", True), *((("replayed", False),) if of.device.type == "cuda" else ())):
            if of.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(of.device)
            run = Run(create("ce"), suite, of.data, 0, eager=eager)
            _steps(run, SETTLED + 2)  # loads kernels, and records
            race = turns.take_turns({way: partial(_steps, run)}, [of.steps] * of.rounds, turns.clock_of(of.device))
            seconds = statistics.median(race.seconds[way]) / of.steps
            peak = torch.cuda.max_memory_allocated(of.device) / 2**20 if of.device.type == "cuda" else None
            rows.append((name, way, 1e3 * seconds, run.batch_size / seconds, peak))
    return rows


def _steps(run: Run, count: int) -> None:
    run.ctx.step = 0  # the schedule stands still
    for _ in range(count):
        run.step()


def group_rows(of: Subject) -> list[tuple[object, ...]]:
    """Steps of several trainings of ce at once, seeds of one row: what all are charged for, over all steps."""
    rows: list[tuple[object, ...]] = []
    for name in of.networks:
        first: float | None = None
        for size in of.sizes:
            if of.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(of.device)
            taken = []
            for epochs in EPOCHS:
                suite, data = _short(of, name, epochs)
                lefts = train_together([Entrant(create("ce"), seed, How()) for seed in range(size)], suite, data)
                taken.append(sum(_sound(left.outcome).seconds for left in lefts))
            seconds = (taken[1] - taken[0]) / (size * of.steps * (EPOCHS[1] - EPOCHS[0]))
            first = first or seconds
            peak = torch.cuda.max_memory_allocated(of.device) / 2**20 if of.device.type == "cuda" else None
            rows.append((name, size, 1e3 * seconds, of.suite.training.batch_size / seconds, first / seconds, peak))
    return rows


def agreement_rows(of: Subject) -> list[tuple[object, ...]]:
    """The same trainings in a group and alone."""
    suite, data = _short(of, of.networks[0], 1)
    specs = (load_suite("cifar10_headline").methods or ())[:TOGETHER]
    entrants = [Entrant(create(spec), 0, How()) for spec in specs]
    rows: list[tuple[object, ...]] = []
    for left in sorted(train_together(entrants, suite, data), key=lambda left: left.place):
        alone, together = train(entrants[left.place].method, suite, data, 0), _sound(left.outcome)
        pairs = zip(alone.net.state_dict().values(), together.net.state_dict().values(), strict=True)
        off = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
        rows.append((specs[left.place], of.steps, alone.losses[-1], together.losses[-1], off))
    return rows


def _short(of: Subject, network: str, epochs: int) -> tuple[Suite, Dataset]:
    """As many steps in an epoch as in a turn."""
    suite = derive(of.suite, {"network.name": network, "training.epochs": epochs})
    images, count = of.data.train, suite.training.batch_size * of.steps
    return suite, replace(of.data, train=replace(images, x=images.x[:count], y=images.y[:count]))


def _sound(outcome: Trained | Exception | None) -> Trained:
    """What a training came to.

    Raises:
        RuntimeError: it failed, or memory ran out.
    """
    if isinstance(outcome, Trained):
        return outcome
    raise outcome or RuntimeError("memory ran out: give smaller --groups")


def pass_rows(of: Subject) -> list[tuple[object, ...]]:
    """Gradients of the loss with respect to the images, as an attack takes them."""
    net = Run(create("ce"), of.suite, of.data, 0).net.eval().requires_grad_(False)
    split = of.data.test
    index = torch.arange(IMAGES, device=of.device) % len(split)
    x, y = split.images(index), split.y[index]
    bf16 = partial(torch.autocast, of.device.type, torch.bfloat16)
    arithmetics: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "float32": no_tf32,
        "TF32": _tf32,
        "bf16": bf16,
    }
    ways: dict[str, Callable[[int], None]] = {}
    for arithmetic, inside in arithmetics.items():
        for layout, form in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
            laid_out = deepcopy(net).to(memory_format=form)
            images = x.to(memory_format=form)
            ways[f"{arithmetic}, {layout}"] = partial(_passes, laid_out, images, y, inside)
    count = max(1, of.steps // 20)
    turns.take_turns(ways, [1], turns.clock_of(of.device))  # loads kernels
    race = turns.take_turns(ways, [count] * of.rounds, turns.clock_of(of.device))
    return [(*way.split(", "), 1e3 * statistics.median(seconds) / count) for way, seconds in race.seconds.items()]


def _passes(
    net: Net,
    x: Tensor,
    y: Tensor,
    arithmetic: Callable[[], AbstractContextManager[object]],
    count: int,
) -> None:
    with arithmetic():
        for _ in range(count):
            point = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(net(point).float(), y), point)


@contextmanager
def _tf32() -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    with no_tf32():  # it restores what was set before
        for backend in backends:
            backend.allow_tf32 = True
        yield


def evaluation_rows(of: Subject) -> list[tuple[object, ...]]:
    """Seconds by estimator and probe, both norms together, of a network after a few epochs of ce."""
    suite = of.suite if of.suite.base is not None else derive(of.suite, TRIAL)
    net = train(create("ce"), suite, of.data, 0).net
    clock = turns.clock_of(of.device)
    start = clock()
    found = evaluate(net, create("ce").certify, of.data, suite.evaluation, suite.stream_name, "ce", 0)
    whole = clock() - start
    parts: dict[str, float] = {}
    for name, facts in found.estimators.items():
        key = name.removesuffix("_l2").removesuffix("_linf")
        parts[key] = parts.get(key, 0.0) + (facts.get("seconds") or 0.0)
    shown = sorted(((name, seconds) for name, seconds in parts.items() if seconds), key=lambda pair: -pair[1])
    right = float((found.arrays["prediction"] == found.arrays["label"]).mean())
    rest = whole - sum(parts.values())
    return [(f"all of it; {right:.0%} of the points are right", whole), *shown, ("the rest", rest)]


PARTS = (
    Part(
        "A training step of ce",
        ("network", "way", "ms", "images/s", "MiB at most"),
        ("", "", ".2f", ",.0f", ",.0f"),
        step_rows,
    ),
    Part(
        "Several trainings of ce at once",
        ("network", "trainings", "ms of a step of each", "images/s", "times one alone", "MiB at most"),
        ("", "", ".2f", ",.0f", ".2f", ",.0f"),
        group_rows,
    ),
    Part(
        "The same trainings in a group and alone",
        ("method", "steps", "loss alone", "loss in the group", "largest difference of a weight"),
        ("", "", ".9g", ".9g", ".1g"),
        agreement_rows,
    ),
    Part(
        f"One forward and backward pass of {IMAGES} images", ("arithmetic", "layout", "ms"), ("", "", ".1f"), pass_rows
    ),
    Part("An evaluation", ("part", "seconds"), ("", ".2f"), evaluation_rows),
)

if __name__ == "__main__":
    main()
