"""Certificates once more, in float64, for a random share of the certified points: was the slack wide enough?"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from marginbench.benchmarks.certificates.certificate import OWN
from marginbench.benchmarks.estimator import Answer, Query, ask
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt
from marginbench.methods import NORMS
from marginbench.methods.errors import one_line

SHARE, LEAST = 0.05, 16  # of the certified points, in each norm and for each certificate
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # pixels; certificates that do not look `at` a radius keep their slack and resolution

Prove = Callable[[Query], Answer]


@doubt
def not_confirmed(e: Evidence) -> str | None:
    """A random 5 % of the certified radii were recomputed in float64, and some do not hold: rounding decided them."""
    return "; ".join(unconfirmed(e)) or None


def unconfirmed(e: Evidence) -> Iterable[str]:
    """What float64 does not confirm, in words; nothing if all is well.

    Bounds by auto-LiRPA are computed at the very radius, without slack. Other certificates, and the method's own,
    repeat their search, and may differ by 0.1 % and 1e-5 pixels: their slack and resolution enter both times.
    """
    precise = copy.deepcopy(e.net).double()
    layers = precise.decision_net()
    for norm in NORMS:
        proofs: dict[str, Prove] = {n: c for n, c in e.certificates.items() if not c.float64}
        proofs[OWN] = lambda q: ask(e.certify, precise, q.x, q.norm)
        for name, prove in proofs.items():
            radius = e.arrays.get(f"lower_{norm}_{name}")
            if radius is None or not bool((radius > 0).any()):
                continue
            points = _sample(radius > 0)
            q = e.query(norm, points)
            q = replace(q, net=layers, x=q.x.double(), at=radius[points].double())
            yield from _disagreement(prove, q, f"{name} in {norm}")


def _sample(certified: Tensor) -> Tensor:
    """Indices of a random share of the points; the same in every run with as many of them."""
    index = certified.nonzero()[:, 0]
    count = max(LEAST, math.ceil(SHARE * len(index)))
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    return index[order[:count].to(index.device)]


def _disagreement(prove: Prove, q: Query, what: str) -> Iterable[str]:
    """Points whose claimed radii `q.at` no answer reaches: neither that for all of them nor that for the point alone.

    auto-LiRPA's bounds for an image depend on the images beside it, and do not fall evenly with the radius. Each is a
    proof, but one batch may just miss what another has proved.
    """
    assert q.at is not None
    together = _answer(prove, q)
    if together.lower is None:
        yield f"{what}: no answer in float64 ({together.reason})"
        return
    wrong = 0
    for i in _short(together.lower, q.at).nonzero()[:, 0].tolist():
        alone = _answer(prove, q.rows(slice(i, i + 1))).lower
        wrong += alone is None or bool(_short(alone, q.at[i]).any())
    if wrong:
        yield f"{what}: {wrong} of {len(q.at)} points"


def _answer(prove: Prove, q: Query) -> Answer:
    try:
        return prove(q)
    except Exception as error:  # a plug-in may raise anything
        return Answer(reason=one_line(error))


def _short(radius: Tensor, claimed: Tensor) -> Tensor:
    return ~(radius >= claimed * (1 - RELATIVE) - ABSOLUTE)  # NaN confirms nothing
