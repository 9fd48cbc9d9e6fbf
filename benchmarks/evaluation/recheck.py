"""Certificates once more, in float64, for a random share of the certified points: was the slack wide enough?"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace

from torch import Tensor

from marginbench.benchmarks.certificates.certificate import OWN
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.benchmarks.evaluation.own import ask_own
from marginbench.methods import NORMS, Norm
from marginbench.methods.errors import one_line
from marginbench.methods.held import in_double

SHARE, LEAST = 0.05, 16  # of the certified points, in each norm and for each certificate
FEW = 4  # of those of a certificate that works in float64: exact margins take as long again
FARTHER = 1.5  # times the distances that attacks have found: what only stays below them is seen
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # pixels; certificates that do not look `at` a radius keep their slack and resolution

UNCONFIRMED, UNCHECKED = "unconfirmed", "unchecked"  # what is recorded of an estimator, in words

Prove = Callable[[Query], Answer]


@doubt
def not_confirmed(e: Evidence) -> str | None:
    """A random 5 % of the certified radii were recomputed in float64, and some do not hold: rounding decided them.

    Or, told that attacks have come less near, a certificate reaches beyond an adversarial example. One that computes in
    float64 itself is only asked this, at 4 points.
    """
    found = [(*key.rsplit("_", 1), entry[UNCONFIRMED]) for key, entry in e.estimators.items() if UNCONFIRMED in entry]
    return "; ".join(f"{name} in {norm}: {seen}" for name, norm, seen in found) or None


def recheck(e: Evidence) -> dict[str, dict[str, str]]:
    """By NAME_NORM what is not confirmed, or why it could not be asked; nothing where all is well."""
    single = [name for name, certificate in e.certificates.items() if not certificate.float64]
    precise = [name for name, certificate in e.certificates.items() if certificate.float64]
    return _in_float64(e, [*single, OWN]) | _told_farther(e, precise)


def _in_float64(e: Evidence, names: Collection[str]) -> dict[str, dict[str, str]]:
    """The radii of these certificates once more.

    Bounds by auto-LiRPA are computed at the very radius, without slack. Other certificates, and the method's own,
    repeat their search, and may differ by 0.1 % and 1e-5 pixels: their slack and resolution enter both times.
    """
    found = {}
    try:
        precise = in_double(e.net)
        layers = precise.decision_net()
    except Exception as error:  # a user's module may raise anything
        return {key: {UNCHECKED: one_line(error)} for key in _certified(e, names)}
    proofs: dict[str, Prove] = {**e.certificates, OWN: lambda q: ask_own(e.certify, precise, q)}
    for key, (norm, name, radius) in _certified(e, names).items():
        certified = radius > 0
        points = sample(certified, max(LEAST, math.ceil(SHARE * int(certified.sum()))))
        q, upper = e.query(norm, points), e.arrays[f"upper_{norm}"][points].double()
        q = replace(q, net=layers, x=q.x.double(), at=radius[points].double(), upper=upper)
        if seen := _disagreement(proofs[name], q):
            found[key] = seen
    return found


def _told_farther(e: Evidence, names: Collection[str]) -> dict[str, dict[str, str]]:
    """A few radii of these certificates once more, where attacks have come less near."""
    found = {}
    for key, (norm, name, radius) in _certified(e, names).items():
        points = sample(radius > 0, FEW)
        q = replace(e.query(norm, points), net=e.net.decision_net(), upper=e.arrays[f"upper_{norm}"][points])
        if seen := _beyond(_answer(e.certificates[name], _farther(q)), q):
            found[key] = seen
    return found


def _certified(e: Evidence, names: Collection[str]) -> dict[str, tuple[Norm, str, Tensor]]:
    """By NAME_NORM the radii to check."""
    radii = {(norm, name): e.arrays.get(f"lower_{norm}_{name}") for norm in NORMS for name in names}
    return {
        f"{name}_{norm}": (norm, name, radius)
        for (norm, name), radius in radii.items()
        if radius is not None and bool((radius > 0).any())
    }


def _disagreement(prove: Prove, q: Query) -> dict[str, str]:
    """How many claimed radii `q.at` no answer reaches: neither that for all points nor that for the point alone.

    Or how many answers are `_beyond` the distances `q.upper`. auto-LiRPA's bounds for an image depend on the images
    beside it, and do not fall evenly with the radius. Each is a proof, but one batch may just miss what another has
    proved.
    """
    assert q.at is not None
    together = _answer(prove, _farther(q))
    if beyond := _beyond(together, q):
        return beyond
    assert together.lower is not None
    wrong = 0
    for i in _short(together.lower, q.at).nonzero()[:, 0].tolist():
        alone = _answer(prove, q.rows(slice(i, i + 1))).lower
        wrong += alone is None or bool(_short(alone, q.at[i]).any())
    return {UNCONFIRMED: f"{wrong} of {len(q.at)} points"} if wrong else {}


def _farther(q: Query) -> Query:
    """As if attacks had come less near: cut off at the distances known, wrong radii contradict nothing."""
    assert q.upper is not None
    return replace(q, upper=FARTHER * q.upper)


def _beyond(answer: Answer, q: Query) -> dict[str, str]:
    """How many radii are longer than the distances `q.upper`, or why there are none."""
    assert q.upper is not None
    if answer.lower is None:
        return {UNCHECKED: answer.reason}
    beyond = int((answer.lower > q.upper * (1 + RELATIVE) + ABSOLUTE).sum())
    return {UNCONFIRMED: f"{beyond} of {len(q.upper)} points, beyond an adversarial example"} if beyond else {}


def _answer(prove: Prove, q: Query) -> Answer:
    try:
        return prove(q)
    except Exception as error:  # a plug-in may raise anything
        return Answer(reason=one_line(error))


def _short(radius: Tensor, claimed: Tensor) -> Tensor:
    return ~(radius >= claimed * (1 - RELATIVE) - ABSOLUTE)  # NaN confirms nothing
