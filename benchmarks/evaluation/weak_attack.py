"""The strongest attacks, on a few points: were the suite's attacks strong enough for the numbers that are reported?"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.alma import alma
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.from_torchattacks import apgd_t
from marginbench.benchmarks.attacks.pdpgd import pdpgd
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.methods import NORMS, Norm

SAMPLE = 16  # correct points, at random
STRONGEST: tuple[tuple[Attack, dict[str, Any]], ...] = (
    (fmn, {"steps": 60, "targets": 3, "starts": 5, "kept": 8}),
    (pdpgd, {"steps": 100, "starts": 5}),
    (alma, {"steps": 60, "starts": 3}),
    (apgd_t, {"steps": 30, "targets": 9}),
)
SHORTER = 0.05  # the share by which the middle or the mean may fall
FEWER = 0.1  # the share of the sample that may lose its robustness at the suite's radius


@doubt
def weak_attack(e: Evidence) -> str | None:
    """Stronger attacks on 16 random correct points lower the upper bounds by more than 5 % (the mean ratio, or the mean
    of the middle half of the distances), or robust accuracy at the suite's radius by more than 10 points: the suite's
    attacks are too weak for this network."""
    return "; ".join(text for norm in NORMS for text in _weaknesses(e, norm)) or None


def _weaknesses(e: Evidence, norm: Norm) -> Iterable[str]:
    """What stronger attacks change in one norm, in words."""
    index = sample(e.correct, SAMPLE)
    if len(index) == 0:
        return
    known, q = e.arrays[f"upper_{norm}"][index], e.query(norm, index)
    found = known
    for attack, settings in STRONGEST:
        upper = attack(q, **settings).upper
        assert upper is not None
        found = torch.minimum(found, upper)
    ratio = torch.where(found < known, found / known, 1.0)  # 0 where there was no bound, 1 where there is none yet
    shortening = {"mean": 1 - float(ratio.mean()), "middle": _fall(_middle(known), _middle(found))}
    name = max(shortening, key=lambda key: shortening[key])
    if shortening[name] > SHORTER:
        yield f"{name} distance in {norm} {shortening[name]:.0%} shorter"
    epsilon = e.epsilon[norm]
    lost = float(((known > epsilon) & (found <= epsilon)).float().mean())
    if lost > FEWER:
        yield f"robust accuracy at {epsilon:g} in {norm} {100 * lost:.0f} points lower"


def _middle(distance: Tensor) -> Tensor:
    """Mean of the middle half of the distances [N]: with so few points a median jumps from one to the next."""
    count = len(distance)
    return distance.sort().values[count // 4 : count - count // 4].mean()


def _fall(before: Tensor, after: Tensor) -> float:
    """The share by which a distance has fallen; inf that has stayed inf has not."""
    return 1 - float(after / before) if bool(after < before) else 0.0
