"""Other attacks on the reject option, on a few points: see `weak_attack`, which watches the other attacks."""

from collections.abc import Iterable

import torch
from torch import Tensor

from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.benchmarks.probes._confident_attack import (
    RIVALS,
    at_random,
    backtracked,
    from_confident_starts,
    from_images,
    settled,
)
from marginbench.methods import NORMS, Norm

SAMPLE, MORE = 16, 64  # correct points, at random; more where the first show that there is something to find
STEPS, DRAWS = 60, 30  # of each start, one for each of the likeliest wrong classes: the surest of so many
ROUNDS = 4  # of both attacks, from images and from random points, at most: while they find more
FEWER = 0.05  # the share of the correct points that may be lost, and one point always


@doubt
def weak_rejection(e: Evidence) -> str | None:
    """Other attacks on the reject option take more than 5 % of the correct points (and one image) past the threshold of
    confidence. They are longer, follow nine wrong classes, from their images pulled into the ball and from random
    points, and are asked about at most 64 random points that have an adversarial example, though none as confident as
    that was found: the suite's attack on the reject option is too weak for this network."""
    if "rejection_threshold" not in e.arrays:
        return None
    return "; ".join(text for norm in NORMS for text in _weaknesses(e, norm)) or None


def _weaknesses(e: Evidence, norm: Norm) -> Iterable[str]:
    """What they change in one norm, in words."""
    tau, attackable = e.arrays["rejection_threshold"], e.arrays[f"upper_{norm}"] <= e.epsilon[norm]
    left = e.correct & attackable & (e.arrays[f"wrong_confidence_{norm}"] < tau)
    tolerated = max(1, FEWER * int(e.correct.sum()))
    if int(left.sum()) <= tolerated:
        return
    lost = _lost(e, norm, left, SAMPLE)
    if lost > tolerated and int(left.sum()) > SAMPLE:
        lost = _lost(e, norm, left, MORE)
    if lost <= tolerated:
        return
    fewer = 100 * lost / int(e.correct.sum())
    yield f"robust accuracy at {e.epsilon[norm]:g} in {norm} about {fewer:.0f} points lower"


def _lost(e: Evidence, norm: Norm, points: Tensor, count: int) -> float:
    """How many of these points [N] bool get past the threshold, judged by at most `count` of them."""
    index = sample(points, count)
    q, past = e.query(norm, index), torch.zeros_like(index, dtype=torch.bool)
    for _ in range(ROUNDS):
        before = int(past.sum())
        for ascent, draw in ((backtracked(STEPS), from_images(e.x, e.y)), (settled(STEPS), at_random)):
            left = (~past).nonzero()[:, 0]
            if len(left):
                confidence = from_confident_starts(q.rows(left), ascent, draw, draws=DRAWS, followed=RIVALS)
                past[left] = confidence >= e.arrays["rejection_threshold"]
        if int(past.sum()) == before:
            break
    return int(past.sum()) * int(points.sum()) / len(index)
