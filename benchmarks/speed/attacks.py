"""How fast the attacks are, as ratios measured in one run, and how close they come.

    python -m marginbench.benchmarks.speed.attacks [--suite digits] [--points 1000] [--rival-points 120]

A network is trained with cross-entropy on the suite's data. The first table is the batched DeepFool beside that of
torchattacks on the same test points, both tightened on their rays; the two take turns in small parts, so that a busy
machine slows both alike. The second is each attack of a preset on `--points` images, test images filled up with
training images, both norms, with the passes that it made for each image.
"""

import argparse

import torch
from tabulate import tabulate
from torch import Tensor

from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.listed import ATTACKS, Attack
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.ray import tighten
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.sandwich import REFERENCES
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import resolve_device, seconds_on
from marginbench.benchmarks.machine.memory import ROWS
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import NORMS, Net, Norm, create


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--preset", default="quick", choices=list(PRESETS))
    parser.add_argument("--points", type=int, default=1000, help="images for the preset")
    parser.add_argument("--rival-points", type=int, default=120, help="test images for torchattacks' DeepFool")
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()

    suite = load_suite(words.suite)
    device = resolve_device(words.device)
    data = suite.load_data().to(device)
    net = train(create("ce"), suite, data, 0).net.eval().requires_grad_(False)
    print(_deepfools(net, suite, data, words.rival_points), flush=True)
    print(f"\n{_preset(net, suite, data, words.preset, words.points)}")
    shape, threads = "x".join(map(str, data.shape)), torch.get_num_threads()
    where = f"{device}, {threads} threads, torch {torch.__version__}"
    print(f"\nce trained on suite {suite.name}, images {shape}, correct points only, {where}")


def _correct(net: Net, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        right = net(images).argmax(1) == labels
    return images[right], labels[right]


def _deepfools(net: Net, suite: Suite, data: Dataset, points: int, part: int = 40) -> str:
    """L2 distances and seconds of both DeepFools. Parts are what torchattacks runs between two runs of ours."""

    def library(model: torch.nn.Module, norm: str, epsilon: float) -> object:
        import torchattacks

        return torchattacks.DeepFool(model, steps=50, overshoot=0.02)

    x, y = _correct(net, data.test.images(slice(points)), data.test.y[:points])
    attacks = {"batched, in the box": ATTACKS["deepfool"], "torchattacks": foreign(library)}
    seconds, distances = dict.fromkeys(attacks, 0.0), {name: torch.zeros(0, device=x.device) for name in attacks}
    rounds = list(zip(x.split(part), y.split(part), strict=True))
    for attack in attacks.values():  # warm-up: imports, memory
        _timed(attack, net, x[:2], y[:2], suite)
    for images, labels in rounds:
        found, took = _timed(attacks["torchattacks"], net, images, labels, suite)
        seconds["torchattacks"] += took
        distances["torchattacks"] = torch.cat([distances["torchattacks"], found])
        # All points at once, as the evaluation runs it; one run for each part, of which the mean counts.
        found, took = _timed(attacks["batched, in the box"], net, x, y, suite)
        seconds["batched, in the box"] += took / len(rounds)
        distances["batched, in the box"] = found
    slow = seconds["torchattacks"]
    rows = [
        (name, seconds[name], slow / seconds[name], float(d.median()), float(d.isinf().float().mean()))
        for name, d in distances.items()
    ]
    headers = (f"DeepFool, L2, {len(x)} points", "s", "times faster", "median distance", "failed")
    return tabulate(rows, headers, tablefmt="github", floatfmt=("", ".3f", ".1f", ".4f", ".1%"))


def _timed(attack: Attack, net: Net, x: Tensor, y: Tensor, suite: Suite, norm: Norm = "l2") -> tuple[Tensor, float]:
    stream = seeds.generator(x.device, "attack_speed")
    start = seconds_on(x.device)
    found = attack.propose(Query(net, x, y, norm, suite.evaluation.epsilon[norm], x[:0], stream))
    seconds = seconds_on(x.device) - start
    return tighten(net, x, found, y, norm)[1], seconds


def _preset(net: Net, suite: Suite, data: Dataset, preset: str, points: int) -> str:
    """Seconds of each attack with its ray search, as the evaluation runs it, and the median distance."""
    images = torch.cat([data.test.images(slice(points)), data.train.images(slice(max(0, points - len(data.test))))])
    labels = torch.cat([data.test.y[:points], data.train.y[: max(0, points - len(data.test))]])
    x, y = _correct(net, images, labels)
    reference = data.train.images(slice(REFERENCES))
    rows: list[tuple[object, ...]] = []
    total = 0.0
    for norm in NORMS:
        best = torch.full((len(x),), torch.inf, device=x.device)
        for name, options in PRESETS[preset].items():
            stream, parts = seeds.generator(x.device, "attack_speed", name, norm), []
            start = seconds_on(x.device)
            with PassCounter(net) as passes:
                for a, b in zip(x.split(ROWS), y.split(ROWS), strict=True):
                    q = Query(net, a, b, norm, suite.evaluation.epsilon[norm], reference, stream)
                    upper = ATTACKS[name](q, **options).upper
                    assert upper is not None
                    parts.append(upper)
            seconds = seconds_on(x.device) - start
            distance, total = torch.cat(parts), total + seconds
            best = torch.minimum(best, distance)
            counts = (passes.forward / len(x), passes.backward / len(x))
            rows.append(
                (name, norm, seconds, *counts, float(distance.median()), float(distance.isinf().float().mean()))
            )
        rows.append(("all", norm, None, None, None, float(best.median()), float(best.isinf().float().mean())))
    headers = (f"{preset}, {len(x)} points", "norm", "s", "forward", "backward", "median distance", "failed")
    table = tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ".2f", ".1f", ".1f", ".4f", ".1%"))
    return f"{table}\n\n{preset}: {total:.1f} s for {len(x)} correct points of {len(images)}, both norms"


if __name__ == "__main__":
    main()
