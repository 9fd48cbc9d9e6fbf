"""The strongest attacks, on a few points: were the suite's attacks strong enough for the numbers that are reported?"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.alma import alma
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.from_torchattacks import apgd_t
from marginbench.benchmarks.attacks.pdpgd import pdpgd
from marginbench.benchmarks.attacks.pgd import pgd
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.methods import NORMS, Norm

SAMPLE, MORE = 16, 64  # correct points, at random; more where the first show that there is something to find
STRONGEST: tuple[tuple[Attack, dict[str, Any]], ...] = (
    (fmn, {"steps": 60, "targets": 3, "starts": 5, "kept": 8}),
    (pdpgd, {"steps": 100, "starts": 5}),
    (alma, {"steps": 60, "starts": 3}),
    (apgd_t, {"steps": 30, "targets": 9}),
)
EVEN_STRONGER: tuple[tuple[Attack, dict[str, Any]], ...] = (
    *((attack, PRESETS["exhaustive"][attack.name]) for attack in (fmn, pdpgd)),
    (pgd, {}),
)
SUSPICIOUS = 0.01  # the share by which the middle or the mean falls where more points are asked
SHORTER = 0.04  # the share by which they may fall
FEWER = 0.05  # the share of the points that may lose their robustness at the suite's radius, and one point always


@doubt
def weak_attack(e: Evidence) -> str | None:
    """Stronger attacks on at most 64 random correct points lower the upper bounds by more than 4 % (the mean ratio, or
    the mean of the middle half of the distances), or robust accuracy at the suite's radius by more than 5 points (and
    one image): the suite's attacks are too weak for this network."""
    return "; ".join(text for norm in NORMS for text in _weaknesses(e, norm)) or None


def _weaknesses(e: Evidence, norm: Norm) -> Iterable[str]:
    """What stronger attacks change in one norm, in words."""
    if not e.correct.any():
        return
    first = _changed(e, norm, sample(e.correct, SAMPLE), STRONGEST)
    if first.shorter <= SUSPICIOUS and first.lost <= 1:
        return
    index = sample(e.correct, MORE)
    seen = _changed(e, norm, index, STRONGEST + EVEN_STRONGER)
    if seen.shorter > SHORTER:
        yield f"{seen.name} distance in {norm} {seen.shorter:.0%} shorter"
    if seen.lost > max(1, FEWER * len(index)):
        yield f"robust accuracy at {e.epsilon[norm]:g} in {norm} {100 * seen.lost / len(index):.0f} points lower"


class _Change(NamedTuple):
    name: str  # of what has fallen most
    shorter: float  # by this share
    lost: int  # points that are no longer robust at the suite's radius


def _changed(e: Evidence, norm: Norm, index: Tensor, attacks: Iterable[tuple[Attack, dict[str, Any]]]) -> _Change:
    """What these attacks change at these points."""
    known, q = e.arrays[f"upper_{norm}"][index], e.query(norm, index)
    found = known
    for attack, settings in attacks:
        upper = attack(q, **settings).upper
        assert upper is not None
        found = torch.minimum(found, upper)
    ratio = torch.where(found < known, found / known, 1.0)  # 0 where there was no bound, 1 where there is none yet
    shortening = {"mean": 1 - float(ratio.mean()), "middle": _fall(_middle(known), _middle(found))}
    name = max(shortening, key=lambda key: shortening[key])
    epsilon = e.epsilon[norm]
    return _Change(name, shortening[name], int(((known > epsilon) & (found <= epsilon)).sum()))


def _middle(distance: Tensor) -> Tensor:
    """Mean of the middle half of the distances [N]: with so few points a median jumps from one to the next."""
    count = len(distance)
    return distance.sort().values[count // 4 : count - count // 4].mean()


def _fall(before: Tensor, after: Tensor) -> float:
    """The share by which a distance has fallen; inf that has stayed inf has not."""
    return 1 - float(after / before) if bool(after < before) else 0.0
