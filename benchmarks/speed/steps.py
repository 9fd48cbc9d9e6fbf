"""Cost of a training step of each method, relative to cross-entropy, beside the passes that it counts.

    python -m marginbench.benchmarks.speed.steps [--suite digits] [--methods SPEC,...] [--size 28] [--batch 128]

Methods take turns within each round, so that a busy machine slows all of them alike; the ratio is the median over
rounds. `passes` is what the counted passes should cost if a backward pass costs two forward passes, of which an
attack's backward pass to the input alone saves nothing; `flops` is the ratio of the operations counted in matrix
products and convolutions, which also sees bounds that are propagated past the network. A row that takes more than 1.5
times what either explains is marked: on small images a step is mostly the overhead of single operations.
"""

import argparse
import statistics
from typing import Any

import torch
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.machine.device import resolve_device, seconds_on
from marginbench.benchmarks.runs.plan import choose_methods
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.loop import Run
from marginbench.methods import create, spec_of
from marginbench.methods.spec import split_specs


class Flops(TorchDispatchMode):
    """Counts the operations of matrix products and convolutions inside its block.

    torch's own FlopCounterMode hooks modules, which `autograd.grad` does not allow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        out = function(*args, **(options or {}))
        if function._overloadpacket in flop_registry:
            self.total += int(flop_registry[function._overloadpacket](*args, **(options or {}), out_val=out))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--methods", help="SPEC[,SPEC...]; default: the suite's")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps per method and round")
    parser.add_argument("--size", type=int, help="noise images of this height and width in place of the suite's data")
    parser.add_argument("--batch", type=int, help="default: the suite's batch size")
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()

    suite = load_suite(words.suite)
    device = resolve_device(words.device)
    if words.batch:
        suite = suite.model_copy(update={"training": suite.training.model_copy(update={"batch_size": words.batch})})
    data = noise(1, words.size) if words.size else suite.load_data()
    data = data.to(device)
    chosen = choose_methods(split_specs(words.methods) if words.methods else None, suite, ())
    methods = [create("ce"), *(method for method in chosen if method.info.key != "ce")]
    runs = {spec_of(method): Run(method, suite, data, 0) for method in methods}
    flops = {spec: _flops(run) for spec, run in runs.items()}  # of the first step: replayed ones are not seen
    passes = {spec: _passes(run) for spec, run in runs.items()}  # also the warm-up
    times: dict[str, list[float]] = {spec: [] for spec in runs}
    for _ in range(words.rounds):
        for spec, run in runs.items():
            times[spec].append(_seconds(run, words.steps))
    rows = []
    for spec in runs:
        ratio = statistics.median(t / ce for t, ce in zip(times[spec], times["ce"], strict=True))
        forward, backward = passes[spec]
        milliseconds = 1e3 * statistics.median(times[spec])
        explained, operations = (forward + 2 * backward) / 3, flops[spec] / flops["ce"]
        mark = "look" if ratio > 1.5 * max(explained, operations) else ""
        rows.append((spec, milliseconds, ratio, forward, backward, explained, operations, mark))
    headers = ("method", "ms/step", "ratio to ce", "forward", "backward", "passes", "flops", "")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".2f", ".2f", ".1f", ".1f", ".1f", ".1f", "")))
    for spec, run in runs.items():
        if run.replay is not None and run.replay.obstacle:
            print(f"\n{spec}: steps are not replayed: {run.replay.obstacle}")
    shape = "x".join(map(str, data.shape))
    where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"\nnetwork of suite {suite.name}, images {shape}, batch {suite.training.batch_size}, {where}")


def noise(channels: int, size: int, count: int = 2048) -> Dataset:
    """Images of random pixels in 10 classes, for timing."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, channels, size, size), generator=stream, dtype=torch.uint8)
    split = Split(x, torch.arange(count) % 10, 255)
    return Dataset(split, split, split, 10, "noise")


def _passes(run: Run, steps: int = 5) -> tuple[float, float]:
    run.ctx.step = int(0.7 * run.ctx.steps)
    with run.passes as counter:
        for _ in range(steps):
            run.step()
    images = steps * run.batch_size
    return counter.forward / images, counter.backward / images


def _flops(run: Run) -> int:
    """Of one step in the middle of the schedule, where ramps and pretraining are over."""
    run.ctx.step = int(0.7 * run.ctx.steps)
    with Flops() as counter:
        run.step()
    total: int = counter.total
    return total


def _seconds(run: Run, steps: int) -> float:
    """Mean seconds per step, from the middle of the schedule on."""
    run.ctx.step = int(0.7 * run.ctx.steps)
    start = seconds_on(run.ctx.device)
    for _ in range(steps):
        run.step()
    return (seconds_on(run.ctx.device) - start) / steps


if __name__ == "__main__":
    main()
