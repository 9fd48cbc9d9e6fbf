"""Another attack on the reject option, on a few points: see `weak_attack`, which watches the other attacks."""

from collections.abc import Iterable

import torch
from torch import Tensor

from marginbench.benchmarks.attacks._linear import top_rivals
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.benchmarks.probes.rejection import wrong_confidence
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.perturb import project

SAMPLE = 16  # correct points, at random
STEPS, RIVALS = 60, 9  # of each start, one for each of the likeliest wrong classes
FEWER = 0.05  # the share of the correct points that may be lost


@doubt
def weak_rejection(e: Evidence) -> str | None:
    """Another attack on the reject option takes more than 5 % of the correct points past the threshold of confidence.
    It starts where the ball is nearest to images of each wrong class, and is asked about 16 random points that have an
    adversarial example, though none as confident as that was found: the suite's attack on the reject option is too weak
    for this network."""
    if "rejection_threshold" not in e.arrays:
        return None
    return "; ".join(text for norm in NORMS for text in _weaknesses(e, norm)) or None


def _weaknesses(e: Evidence, norm: Norm) -> Iterable[str]:
    """What it changes in one norm, in words."""
    tau, attackable = e.arrays["rejection_threshold"], e.arrays[f"upper_{norm}"] <= e.epsilon[norm]
    left = e.correct & attackable & (e.arrays[f"wrong_confidence_{norm}"] < tau)
    index = sample(left, SAMPLE)
    if len(index) == 0:
        return
    rivals = top_rivals(e.net, e.x[index], e.y[index], RIVALS)
    q = e.query(norm, index.repeat_interleave(rivals.shape[1]))
    confidence = wrong_confidence(q, STEPS, rivals.flatten(), _towards(e, q, rivals.flatten()))
    found = confidence.view(len(index), -1).amax(1) >= tau
    lost = float(found.float().mean()) * int(left.sum()) / int(e.correct.sum())
    if lost > FEWER:
        yield f"robust accuracy at {e.epsilon[norm]:g} in {norm} about {100 * lost:.0f} points lower"


def _towards(e: Evidence, q: Query, rival: Tensor) -> Tensor:
    """Perturbations [B, C, H, W] in the ball, towards a random evaluated image of the class, or any if it has none."""
    weight = (rival[:, None] == e.y[None]).float() + 1e-12
    other = e.x[torch.multinomial(weight, 1, generator=q.generator)[:, 0]]
    return project(other - q.x, q.x.new_full((len(q.x),), q.epsilon), q.norm)
