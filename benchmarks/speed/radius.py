"""How fast the radius search of CROWN is beside a plain bisection, as ratios measured in one run.

    python -m marginbench.benchmarks.speed.radius [--suite digits] [--methods ce,arcface] [--points 120]

Networks are trained on the suite's data. The search is `certified_radius` with its defaults. The bisection takes 12
steps on the same bounds, in the same chunks, from the bracket between 0 and the nearest adversarial example of FMN;
both prepare the network themselves. They take turns, so that a busy machine slows both alike: a few steps of the
bisection, then a whole search, of which the mean counts.
"""

import argparse
from dataclasses import replace

import torch
from tabulate import tabulate
from torch import Tensor

from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.certificates import _compat, crown
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import resolve_device, seconds_on
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import NORMS, Net, Norm, create

STEPS = 12
TURNS = 3
ROUNDS = 8  # the limit of `certified_radius`
HEADERS = (
    "method",
    "norm",
    "search: bounds",
    "s",
    "bisection: bounds",
    "s",
    "times faster",
    "median difference",
    "largest",
    "over 1 % below",
    "all rounds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--methods", default="ce,arcface,jacobian_reg,ibp", help="names, with commas between them")
    parser.add_argument("--points", type=int, default=120, help="test images")
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()

    suite = load_suite(words.suite)
    device = resolve_device(words.device)
    data = suite.load_data().to(device)
    rows: list[tuple[object, ...]] = []
    for name in words.methods.split(","):
        net = train(create(name), suite, data, 0).net.eval().requires_grad_(False)
        x, y = data.test.images(slice(words.points)), data.test.y[: words.points]
        with torch.no_grad():
            right = net(x).argmax(1) == y
        for norm in NORMS:
            epsilon = suite.evaluation.epsilon[norm]
            rows.append((name, norm, *_compare(net, x[right], y[right], norm, epsilon)))
    formats = ("", "", ".2f", ".2f", ".0f", ".2f", ".1f", ".2%", ".2%", ".1%", ".1%")
    print(tabulate(rows, HEADERS, tablefmt="github", floatfmt=formats))
    where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"\nsuite {suite.name}, images {'x'.join(map(str, data.shape))}, correct ones of {words.points}, {where}")
    print("bounds: computations of CROWN per image; differences: of the radii, relative to those of the bisection")


def _compare(net: Net, x: Tensor, y: Tensor, norm: Norm, epsilon: float) -> tuple[float, ...]:
    q = Query(net, x, y, norm, epsilon, x[:0], seeds.generator(x.device, "radius_speed"))
    upper = fmn(q).upper
    assert upper is not None
    upper = upper.where(upper.isfinite(), 1.0 if norm == "linf" else x[0].numel() ** 0.5)  # where FMN has failed
    q = replace(q, net=net.decision_net(), upper=upper)
    _search(q.rows(slice(2)))  # warm-up: imports, memory
    seconds = {"search": 0.0, "bisection": 0.0}
    low, high = torch.zeros_like(upper), upper.clone()
    start = seconds_on(x.device)
    bounds = _prepare(q)
    seconds["bisection"] += seconds_on(x.device) - start
    everything = torch.arange(len(x), device=x.device)
    for _ in range(TURNS):
        start = seconds_on(x.device)
        with torch.no_grad(), crown.precision_of(x):
            for _ in range(STEPS // TURNS):
                middle = (low + high) / 2
                verified = bounds.margin(middle, everything, "CROWN") > 0
                low, high = torch.where(verified, middle, low), torch.where(verified, high, middle)
        seconds["bisection"] += seconds_on(x.device) - start
        start = seconds_on(x.device)
        radius, counts = _search(q)
        seconds["search"] += (seconds_on(x.device) - start) / TURNS
    keep = low > 0
    difference = (radius - low)[keep] / low[keep]
    return (
        float(counts.mean()),
        seconds["search"],
        STEPS,
        seconds["bisection"],
        seconds["bisection"] / seconds["search"],
        float(difference.abs().median()),
        float(difference.abs().max()),
        float((difference < -0.01).float().mean()),
        float((counts >= ROUNDS).float().mean()),
    )


def _prepare(q: Query) -> crown.Bounds:
    with torch.no_grad(), crown.precision_of(q.x):
        slack = crown.SLACK * q.net(q.x).abs().amax(1).clamp(min=1)
        return crown.Bounds(_compat.load_auto_lirpa(), q, slack, crown.Search("CROWN"))


def _search(q: Query) -> tuple[Tensor, Tensor]:
    """Radii [B], and how many times CROWN was computed for each image."""
    counts = torch.zeros(len(q.x), device=q.x.device)

    def watch(bound: crown.Bound, index: Tensor) -> None:
        if bound == "CROWN":
            counts[index] += 1

    found = crown.certified_radius(q, crown.Search("CROWN", watch=watch))
    if isinstance(found, Answer):
        raise SystemExit(found.reason)
    return found, counts


if __name__ == "__main__":
    main()
