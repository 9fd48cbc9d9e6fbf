"""How long exact L-infinity margins take, and how far the attacks were from them.

A 64-32-16-10 ReLU network is trained on the digits with each method, with the budget of the suite `digits_exact`.
DeepFool and FMN start the search on the first test images that the network classifies correctly, and the margin of
each is then enclosed by mixed-integer programming, all rival classes together, within the time limit. The images are
shared by `--jobs` processes; where there are several, of one thread each. Seconds are wall time, without the attacks.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.deepfool import deepfool
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.certificates.milp import milp
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.device import cores
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods.spec import split_specs

START = (deepfool, fmn)
TOO_FAR = 1e-3  # relative; the margins are not known better


class Point(NamedTuple):
    """One image, with its enclosed margin, and the distance of the nearest adversarial image of the attacks."""

    image: int  # index in the test set
    attacked: float
    lower: float
    upper: float
    solved: bool
    seconds: float


def main() -> None:
    words = turns.parse(
        __doc__,
        points=turns.Option(100, "correctly classified test images"),
        width=turns.Option(16, "units of the second hidden layer; the first has twice as many"),
        time_limit=turns.Option(60.0, "seconds for each image"),
        methods="ce",
        jobs=turns.Option(cores(), "processes"),
    )
    changes = {"network.file": f"{__file__}:body", "network.width": words.width}  # `mlp` has layers of one width
    suite = derive(load_suite("digits_exact"), changes)
    data = suite.load_data()
    runs = {}
    for spec in split_specs(words.methods):
        runs[spec] = measure(turns.Classifier.trained(spec, suite, data), words.points, words.time_limit, words.jobs)
    print(report(runs))
    widths = "-".join(map(str, (math.prod(data.shape), 2 * words.width, words.width, data.num_classes)))
    where = f"processes: {words.jobs} on {cores()} cores, torch {torch.__version__}, scipy {metadata.version('scipy')}"
    print(f"\n{widths} network, at most {words.time_limit:g} s for a point, {where}")


def body(shape: tuple[int, int, int], width: int = 16) -> nn.Sequential:
    """Hidden layers of 2 `width` and `width` units."""
    first, second = nn.Linear(math.prod(shape), 2 * width), nn.Linear(2 * width, width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())


def measure(classifier: turns.Classifier, points: int, time_limit: float, jobs: int) -> list[Point]:
    """Attack the first `points` test images that are classified correctly, and solve for their margins."""
    test = classifier.data.test
    index = classifier.correct(test.images(slice(None)), test.y)[:points]
    x, y = test.images(index), test.y[index]
    attacked = torch.full((len(x),), torch.inf)
    for attack in START:
        distance = attack(classifier.query(x, y, "linf", "exact_speed", attack.name)).upper
        assert distance is not None
        attacked = torch.minimum(attacked, distance)
    solve = partial(_solve, classifier.net.decision_net(), time_limit)
    each = list(zip(index.tolist(), x.split(1), y.split(1), attacked.split(1), strict=True))
    if jobs == 1:
        return list(map(solve, each))
    fresh = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(jobs, fresh, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(solve, each))


def _solve(net: nn.Sequential, time_limit: float, one: tuple[int, Tensor, Tensor, Tensor]) -> Point:
    image, x, y, attacked = one
    start = time.perf_counter()
    found = milp(Query(net, x, y, "linf", 1.0, x[:0], torch.Generator(x.device), upper=attacked), time_limit=time_limit)
    seconds = time.perf_counter() - start
    if found.lower is None or found.upper is None or found.solved is None:
        raise SystemExit(found.reason)
    return Point(image, float(attacked), float(found.lower), float(found.upper), bool(found.solved), seconds)


def report(runs: Mapping[str, Sequence[Point]]) -> str:
    """What was solved in which time, what the attacks had missed on these points, and what was not solved."""
    rows, rest = [], []
    for spec, points in runs.items():
        seconds = [point.seconds for point in points]
        times = (statistics.mean(seconds), statistics.median(seconds), max(seconds))
        solved = [point for point in points if point.solved]
        excess = [point.attacked / point.upper - 1 for point in solved if point.attacked > (1 + TOO_FAR) * point.upper]
        by = (statistics.median(excess), max(excess)) if excess else (None, None)
        rows.append((spec, len(points), len(solved), *times, len(excess), *by))
        rest += [(spec, p.image, p.lower, p.upper, p.seconds) for p in points if not p.solved]
    far = (f"attacks > {TOO_FAR:.1%} too far", "by, median", "by, max")
    headers = ("method", "points", "solved", "s mean", "s median", "s max", *far)
    text = turns.table(rows, headers, ("", "", "", ".2f", ".2f", ".2f", "", ".1%", ".1%"))
    if not rest:
        return f"{text}\n\nAll points are solved."
    left = turns.table(rest, ("not solved", "test image", "lower", "upper", "s"), ("", "", ".5f", ".5f", ".2f"))
    return f"{text}\n\n{left}"


if __name__ == "__main__":
    main()
