"""Certificates once more, in float64, for a random share of the certified points: was the slack wide enough?"""

import math
from collections.abc import Callable
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
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # pixels; certificates that do not look `at` a radius keep their slack and resolution

UNCONFIRMED, UNCHECKED = "unconfirmed", "unchecked"  # what is recorded of an estimator, in words

Prove = Callable[[Query], Answer]


@doubt
def not_confirmed(e: Evidence) -> str | None:
    """A random 5 % of the certified radii were recomputed in float64, and some do not hold: rounding decided them.

    Or, asked without the distances that attacks have found, they reach beyond an adversarial example. Certificates that
    compute in float64 themselves are not asked again.
    """
    found = [(*key.rsplit("_", 1), entry[UNCONFIRMED]) for key, entry in e.estimators.items() if UNCONFIRMED in entry]
    return "; ".join(f"{name} in {norm}: {seen}" for name, norm, seen in found) or None


def recheck(e: Evidence) -> dict[str, dict[str, str]]:
    """By NAME_NORM what float64 does not confirm, or why it could not be asked; nothing where all is well.

    Bounds by auto-LiRPA are computed at the very radius, without slack. Other certificates, and the method's own,
    repeat their search, and may differ by 0.1 % and 1e-5 pixels: their slack and resolution enter both times.
    """
    found = {}
    try:
        precise = in_double(e.net)
        layers = precise.decision_net()
    except Exception as error:  # a user's module may raise anything
        return {key: {UNCHECKED: one_line(error)} for key in _certified(e)}
    proofs: dict[str, Prove] = {n: c for n, c in e.certificates.items() if not c.float64}
    proofs[OWN] = lambda q: ask_own(e.certify, precise, q)
    for key, (norm, name, radius) in _certified(e).items():
        certified = radius > 0
        points = sample(certified, max(LEAST, math.ceil(SHARE * int(certified.sum()))))
        q = e.query(norm, points)
        q = replace(q, net=layers, x=q.x.double(), at=radius[points].double())
        if seen := _disagreement(proofs[name], q, e.arrays[f"upper_{norm}"][points].double()):
            found[key] = seen
    return found


def _certified(e: Evidence) -> dict[str, tuple[Norm, str, Tensor]]:
    """By NAME_NORM the radii to check."""
    names = [*(name for name, certificate in e.certificates.items() if not certificate.float64), OWN]
    radii = {(norm, name): e.arrays.get(f"lower_{norm}_{name}") for norm in NORMS for name in names}
    return {
        f"{name}_{norm}": (norm, name, radius)
        for (norm, name), radius in radii.items()
        if radius is not None and bool((radius > 0).any())
    }


def _disagreement(prove: Prove, q: Query, upper: Tensor) -> dict[str, str]:
    """How many claimed radii `q.at` no answer reaches: neither that for all points nor that for the point alone.

    Or how many answers are longer than the distances `upper`, which `prove` saw when it made the claims: cut off there,
    wrong radii contradict nothing. auto-LiRPA's bounds for an image depend on the images beside it, and do not fall
    evenly with the radius. Each is a proof, but one batch may just miss what another has proved.
    """
    assert q.at is not None
    together = _answer(prove, q)
    if together.lower is None:
        return {UNCHECKED: together.reason}
    beyond = int((together.lower > upper * (1 + RELATIVE) + ABSOLUTE).sum())
    if beyond:
        return {UNCONFIRMED: f"{beyond} of {len(upper)} points, beyond an adversarial example"}
    wrong = 0
    for i in _short(together.lower, q.at).nonzero()[:, 0].tolist():
        alone = _answer(prove, q.rows(slice(i, i + 1))).lower
        wrong += alone is None or bool(_short(alone, q.at[i]).any())
    return {UNCONFIRMED: f"{wrong} of {len(q.at)} points"} if wrong else {}


def _answer(prove: Prove, q: Query) -> Answer:
    try:
        return prove(q)
    except Exception as error:  # a plug-in may raise anything
        return Answer(reason=one_line(error))


def _short(radius: Tensor, claimed: Tensor) -> Tensor:
    return ~(radius >= claimed * (1 - RELATIVE) - ABSOLUTE)  # NaN confirms nothing
