"""How near lists of attacks come, and for how many passes: what the preset `quick` was chosen by.

Networks are trained with `--methods` on the suite's data, and attacked on correct images of the validation split, never
on test images. Each list is compared with the nearest points of all of them: how much longer its distances are in the
mean, and how many points of robust accuracy it is above, at the suite's radius and at half and twice that.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.evaluation.sandwich import REFERENCES
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS, Norm
from marginbench.methods.spec import split_specs

LISTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "deepfool, fmn from x": {"deepfool": {}, "fmn": {"steps": 30, "targets": 1, "starts": 0}, "apgd": {}},
    "quick": PRESETS["quick"],
    "quick, no start given up": {**PRESETS["quick"], "fmn": {"kept": 5}},
    "fmn and pdpgd": {"fmn": {"steps": 30, "targets": 2, "starts": 2, "kept": 4}, "pdpgd": {"steps": 30}, "apgd": {}},
    "fmn and alma": {"fmn": {"steps": 30, "targets": 2, "starts": 2, "kept": 4}, "alma": {"steps": 30}, "apgd": {}},
    "strongest": {
        "fmn": {"steps": 100, "targets": 3, "starts": 9, "kept": 12},
        "pdpgd": {"steps": 100, "starts": 9},
        "alma": {"steps": 100, "starts": 9},
        "apgd_t": {"targets": 9},
    },
}
SHARES = (0.5, 1.0, 2.0)  # of the suite's radius
STREAM = "attack_strength"


def main() -> None:
    words = turns.parse(__doc__, suite="digits", methods="ce,pgd_at,ibp,crown_ibp", points=50, device="auto")
    suite = load_suite(words.suite)
    data = suite.load_data().to(resolve_device(words.device))
    rows: list[tuple[object, ...]] = []
    for spec in split_specs(words.methods):
        classifier = turns.Classifier.trained(spec, suite, data)
        for norm in NORMS:
            rows += compare(classifier, spec, norm, words.points)
    radii = [f"robust at {share:g} eps, points above" for share in SHARES]
    headers = ("method", "norm", "list", "forward", "backward", "mean distance", "longer", *radii)
    print(turns.table(rows, headers, ("", "", "", ".0f", ".0f", ".4f", ".1%", *[".1f"] * len(SHARES))))
    print(f"\nsuite {suite.name}, {turns.where(data, 'correct points of the validation split only')}")


def compare(classifier: turns.Classifier, spec: str, norm: Norm, points: int) -> list[tuple[object, ...]]:
    """A row for each list."""
    split = classifier.data.validation
    x, y = split.images(slice(points)), split.y[:points]
    index = classifier.correct(x, y)
    reference = classifier.data.train.images(slice(REFERENCES))
    found = {}
    for name, attacks in LISTS.items():
        nearest = torch.full((len(index),), torch.inf, device=x.device)
        with PassCounter(classifier.net) as passes:
            for attack, settings in attacks.items():
                query = classifier.query(x[index], y[index], norm, STREAM, attack, norm)
                upper = ATTACKS[attack](replace(query, reference=reference), **settings).upper
                assert upper is not None
                nearest = torch.minimum(nearest, upper)
        found[name] = (nearest, passes.forward / len(index), passes.backward / len(index))
    best = torch.stack([nearest for nearest, *_ in found.values()]).amin(0)
    epsilon = classifier.suite.evaluation.epsilon[norm]
    return [
        (spec, norm, name, forward, backward, float(nearest.mean()), *excess(nearest, best, epsilon))
        for name, (nearest, forward, backward) in found.items()
    ]


def excess(distance: Tensor, best: Tensor, epsilon: float) -> tuple[float, ...]:
    """How much longer than the best the distances [B] are in the mean, and the points of robust accuracy above it."""
    above = [float(((distance > s * epsilon) & (best <= s * epsilon)).float().mean()) for s in SHARES]
    return (float(distance.mean() / best.mean()) - 1, *(100 * share for share in above))


if __name__ == "__main__":
    main()
