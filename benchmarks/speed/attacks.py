"""How fast the attacks are, as ratios measured in one run, and how close they come.

A network is trained with cross-entropy on the suite's data. The first table is the batched DeepFool beside that of
torchattacks on the same test points, both tightened on their rays; the two take turns in small parts, so that a busy
machine slows both alike. The second is each attack of a preset on `--points` images, test images filled up with
training images, both norms, with the passes that it made for each image.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.ray import tighten
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.evaluation.sandwich import REFERENCES
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.memory import ROWS
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS

OURS, THEIRS = "batched, in the box", "torchattacks"
STREAM = "attack_speed"


def main() -> None:
    words = turns.parse(
        __doc__,
        suite="digits",
        preset=turns.Option("quick", "attacks of the second table", choices=list(PRESETS)),
        points=turns.Option(1000, "images for the preset"),
        rival_points=turns.Option(120, "test images for torchattacks' DeepFool"),
        device="auto",
    )
    suite = load_suite(words.suite)
    data = suite.load_data().to(resolve_device(words.device))
    classifier = turns.Classifier.trained("ce", suite, data)
    print(deepfools(classifier, words.rival_points), flush=True)
    print(f"\n{preset(classifier, words.preset, words.points)}")
    print(f"\nce trained on suite {suite.name}, {turns.where(data, 'correct points only')}")


def deepfools(classifier: turns.Classifier, points: int, part: int = 40) -> str:
    """L2 distances and seconds of both DeepFools.

    Ours takes all points at once in every round, as the evaluation runs it, and its mean counts; that of torchattacks
    takes one part of them in each.
    """

    def library(model: nn.Module, norm: str, epsilon: float) -> object:
        import torchattacks

        return torchattacks.DeepFool(model, steps=50, overshoot=0.02)

    def propose(attack: Attack, x: Tensor, y: Tensor) -> Tensor:
        return attack.propose(classifier.query(x, y, "l2", STREAM))

    net, test = classifier.net, classifier.data.test
    x, y = test.images(slice(points)), test.y[:points]
    index = classifier.correct(x, y)
    x, y = x[index], y[index]
    ours, theirs = ATTACKS["deepfool"], foreign(library)
    for attack in (ours, theirs):  # warm-up: imports, memory
        propose(attack, x[:2], y[:2])
    race = turns.take_turns(
        {THEIRS: lambda few: propose(theirs, *few), OURS: lambda _: propose(ours, x, y)},
        list(zip(x.split(part), y.split(part), strict=True)),
        turns.clock_of(x.device),
    )
    seconds = {name: sum(times) for name, times in race.seconds.items()}
    seconds[OURS] /= len(race.seconds[OURS])
    found = {OURS: race.results[OURS][-1], THEIRS: torch.cat(race.results[THEIRS])}
    rows = []
    for name, point in found.items():
        distance = tighten(net, x, point, y, "l2")[1]
        rows.append((name, seconds[name], seconds[THEIRS] / seconds[name], *_summary(distance)))
    headers = (f"DeepFool, L2, {len(x)} points", "s", "times faster", "median distance", "failed")
    return turns.table(rows, headers, ("", ".3f", ".1f", ".4f", ".1%"))


def preset(classifier: turns.Classifier, name: str, points: int) -> str:
    """Seconds of each attack with its ray search, as the evaluation runs it, and the median distance.

    On a CPU these are CPU seconds of all threads.
    """
    data, filled = classifier.data, max(0, points - len(classifier.data.test))
    images = torch.cat([data.test.images(slice(points)), data.train.images(slice(filled))])
    labels = torch.cat([data.test.y[:points], data.train.y[:filled]])
    index = classifier.correct(images, labels)
    x, y = images[index], labels[index]
    reference = data.train.images(slice(REFERENCES))
    clock = turns.effort_clock_of(x.device)
    rows: list[tuple[object, ...]] = []
    total = 0.0
    for norm in NORMS:
        best = torch.full((len(x),), torch.inf, device=x.device)
        for attack, options in PRESETS[name].items():
            query = replace(classifier.query(x, y, norm, STREAM, attack, norm), reference=reference)
            parts = [query.rows(slice(i, i + ROWS)) for i in range(0, len(x), ROWS)]
            start = clock()
            with PassCounter(classifier.net) as passes:
                found = [ATTACKS[attack](part, **options).upper for part in parts]
            seconds = clock() - start
            distance = torch.cat([upper for upper in found if upper is not None])
            total, best = total + seconds, torch.minimum(best, distance)
            counts = (passes.forward / len(x), passes.backward / len(x))
            rows.append((attack, norm, seconds, *counts, *_summary(distance)))
        rows.append(("all", norm, None, None, None, *_summary(best)))
    headers = (f"{name}, {len(x)} points", "norm", "s", "forward", "backward", "median distance", "failed")
    text = turns.table(rows, headers, ("", "", ".2f", ".1f", ".1f", ".4f", ".1%"))
    return f"{text}\n\n{name}: {total:.1f} s for {len(x)} correct points of {len(images)}, both norms"


def _summary(distance: Tensor) -> tuple[float, float]:
    """The median, and the share of failures."""
    return float(distance.median()), float(distance.isinf().float().mean())


if __name__ == "__main__":
    main()
