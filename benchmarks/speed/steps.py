"""Cost of a training step of each method, relative to cross-entropy, beside the passes that it counts.

Methods take turns within each round, so that a busy machine slows all of them alike; the ratio is the median over
rounds. `passes` is what the counted passes should cost if a backward pass costs two forward passes, of which an
attack's backward pass to the input alone saves nothing; `flops` is the ratio of the operations counted in matrix
products and convolutions, which also sees bounds that are propagated past the network. A row that takes more than 1.5
times what either explains is marked: on small images a step is mostly the overhead of single operations.
"""

import statistics
from functools import partial

from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.flops import Flops
from marginbench.benchmarks.runs.choice import choose_methods
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import create, spec_of
from marginbench.methods.spec import split_specs

Cost = tuple[float, float, int]  # of a step: forward and backward passes per image, operations


def main() -> None:
    words = turns.parse(
        __doc__,
        suite="digits",
        methods=turns.Option(None, "methods, SPEC[,SPEC...] (default: the suite's)", str),
        rounds=15,
        steps=20,
        size=turns.Option(None, "noise images of this height and width instead of the suite's data", int),
        batch=turns.Option(None, "images in a training step (default: the suite's)", int),
        device="auto",
    )
    suite, device = load_suite(words.suite), resolve_device(words.device)
    if words.batch:
        suite = suite.model_copy(update={"training": suite.training.model_copy(update={"batch_size": words.batch})})
    data = (turns.noise(1, words.size) if words.size else suite.load_data()).to(device)
    chosen = choose_methods(split_specs(words.methods) if words.methods else None, suite, ())
    methods = [create("ce"), *(method for method in chosen if method.info.key != "ce")]
    runs = {spec_of(method): Run(method, suite, data, 0) for method in methods}
    costs = {spec: _cost(run) for spec, run in runs.items()}  # also the warm-up
    ways = {spec: partial(_advance, run) for spec, run in runs.items()}
    race = turns.take_turns(ways, [words.steps] * words.rounds, turns.clock_of(device))
    print(report(race, costs, words.steps))
    for spec, run in runs.items():
        if run.replay is not None and run.replay.obstacle:
            print(f"\n{spec}: steps are not replayed: {run.replay.obstacle}")
    print(f"\nnetwork of suite {suite.name}, {turns.where(data, f'batch {suite.training.batch_size}')}")


def report(race: turns.Turns[None], costs: dict[str, Cost], steps: int) -> str:
    """A row for each method, `ce` among them."""
    rows = []
    for spec, (forward, backward, flops) in costs.items():
        milliseconds = 1e3 * statistics.median(race.seconds[spec]) / steps
        ratio = statistics.median(race.ratios(spec, "ce"))
        explained, operations = (forward + 2 * backward) / 3, flops / costs["ce"][-1]
        mark = "look" if ratio > 1.5 * max(explained, operations) else ""
        rows.append((spec, milliseconds, ratio, forward, backward, explained, operations, mark))
    headers = ("method", "ms/step", "ratio to ce", "forward", "backward", "passes", "flops", "")
    return turns.table(rows, headers, ("", ".2f", ".2f", ".1f", ".1f", ".1f", ".1f", ""))


def _cost(run: Run, steps: int = 5) -> Cost:
    with Flops() as flops:  # of the first step: replayed ones are not seen
        _advance(run, 1)
    with run.passes as passes:
        _advance(run, steps)
    images = steps * run.batch_size
    return passes.forward / images, passes.backward / images, flops.total


def _advance(run: Run, steps: int) -> None:
    """Train from the same point on, where ramps and pretraining are over."""
    run.ctx.step = int(0.7 * run.ctx.steps)
    for _ in range(steps):
        run.step()


if __name__ == "__main__":
    main()
