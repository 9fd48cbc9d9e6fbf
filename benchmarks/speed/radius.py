"""How fast the radius search of CROWN is beside a plain bisection, as ratios measured in one run.

Networks are trained on the suite's data. The search is `certified_radius` with its defaults. The bisection takes 12
steps on the same bounds, in the same chunks, from the bracket between 0 and the nearest adversarial example of FMN;
both prepare the network themselves. They take turns, so that a busy machine slows both alike: a few steps of the
bisection, then a whole search, of which the mean counts.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.certificates import _bounds, _compat, crown
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.machine.device import precision_of, resolve_device
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.rounding import logit_allowance
from marginbench.methods.spec import split_specs

STEPS = 12
TURNS = 3
ROUNDS = 8  # the limit of `certified_radius`


class Found(NamedTuple):
    """Radii [B], and how many times CROWN has been computed for each image [B]."""

    radius: Tensor
    bounds: Tensor


def main() -> None:
    words = turns.parse(__doc__, suite="digits", methods="ce,arcface,jacobian_reg,ibp", points=120, device="auto")
    suite = load_suite(words.suite)
    data = suite.load_data().to(resolve_device(words.device))
    x, y = data.test.images(slice(words.points)), data.test.y[: words.points]
    rows: list[tuple[object, ...]] = []
    for spec in split_specs(words.methods):
        classifier = turns.Classifier.trained(spec, suite, data)
        index = classifier.correct(x, y)
        races = {norm: in_turns(classifier, x[index], y[index], norm) for norm in NORMS}
        rows += [(spec, norm, *compare(race)) for norm, race in races.items()]
    costs = ("search: bounds", "s", "bisection: bounds", "s", "times faster")
    headers = ("method", "norm", *costs, "median difference", "largest", "over 1 % below", "all rounds")
    print(turns.table(rows, headers, ("", "", ".2f", ".2f", ".0f", ".2f", ".1f", ".2%", ".2%", ".1%", ".1%")))
    print(f"\nsuite {suite.name}, {turns.where(data, f'correct ones of {words.points}')}")
    print("bounds: computations of CROWN per image; differences: of the radii, relative to those of the bisection")


def in_turns(classifier: turns.Classifier, x: Tensor, y: Tensor, norm: Norm) -> turns.Turns[Found]:
    """Both in turns, on images that are classified correctly."""
    q = classifier.query(x, y, norm, "radius_speed")
    upper = fmn(q).upper
    assert upper is not None
    upper = upper.where(upper.isfinite(), 1.0 if norm == "linf" else x[0].numel() ** 0.5)  # where FMN has failed
    q = replace(q, net=classifier.net.decision_net(), upper=upper)
    _search(q.rows(slice(2)))  # warm-up: imports, memory
    bisection = _bisection(q, upper)
    ways = {"bisection": lambda _: next(bisection), "search": lambda _: _search(q)}
    return turns.take_turns(ways, range(TURNS), turns.clock_of(x.device))


def compare(race: turns.Turns[Found]) -> tuple[float, ...]:
    """Bounds and seconds of both, and how the radii of the search differ from those of the bisection."""
    search, bisection = (race.results[name][-1] for name in ("search", "bisection"))
    seconds, slow = statistics.mean(race.seconds["search"]), sum(race.seconds["bisection"])
    keep = bisection.radius > 0
    difference = (search.radius - bisection.radius)[keep] / bisection.radius[keep]
    return (
        float(search.bounds.mean()),
        seconds,
        float(bisection.bounds.mean()),
        slow,
        slow / seconds,
        float(difference.abs().median()),
        float(difference.abs().max()),
        float((difference < -0.01).float().mean()),
        float((search.bounds >= ROUNDS).float().mean()),
    )


def _bisection(q: Query, upper: Tensor) -> Iterator[Found]:
    """What is found after a share of the steps, then after the next. The first share prepares the network."""
    low, high = torch.zeros_like(upper), upper
    with torch.no_grad(), precision_of(q.x):
        bounds = _bounds.Bounds(_compat.load_auto_lirpa(), q, _bounds.Search("CROWN"))
        bounds.slack = logit_allowance(q.net, q.x, q.epsilon, q.norm)
    everything = torch.arange(len(q.x), device=q.x.device)
    for done in range(STEPS // TURNS, STEPS + 1, STEPS // TURNS):
        with torch.no_grad(), precision_of(q.x):
            for _ in range(STEPS // TURNS):
                middle = (low + high) / 2
                verified = bounds.margin(middle, everything, "CROWN") > 0
                low, high = torch.where(verified, middle, low), torch.where(verified, high, middle)
        yield Found(low, torch.full_like(low, done))


def _search(q: Query) -> Found:
    counts = torch.zeros(len(q.x), device=q.x.device)

    def watch(bound: _bounds.Bound, index: Tensor) -> None:
        if bound == "CROWN":
            counts[index] += 1

    found = crown.certified_radius(q, _bounds.Search("CROWN", watch=watch))
    if isinstance(found, Answer):
        raise SystemExit(found.reason)
    return Found(found, counts)


if __name__ == "__main__":
    main()
