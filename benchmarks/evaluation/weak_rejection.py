"""Another attack on the reject option, on a few points: see `weak_attack`, which watches the other attacks."""

from collections.abc import Iterable

from marginbench.benchmarks.evaluation.evidence import Evidence, doubt, sample
from marginbench.benchmarks.probes._confident_attack import RIVALS, from_confident_starts, from_images
from marginbench.methods import NORMS, Norm

SAMPLE = 16  # correct points, at random
STEPS, DRAWS = 60, 30  # of each start, one for each of the likeliest wrong classes: the surest of so many
FEWER = 0.05  # the share of the correct points that may be lost


@doubt
def weak_rejection(e: Evidence) -> str | None:
    """Another attack on the reject option takes more than 5 % of the correct points past the threshold of confidence.
    It is longer, begins from images of nine wrong classes, pulled into the ball, and is asked about 16 random points
    that have an adversarial example, though none as confident as that was found: the suite's attack on the reject
    option is too weak for this network."""
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
    images = from_images(e.x, e.y)
    confidence = from_confident_starts(e.query(norm, index), STEPS, images, draws=DRAWS, followed=RIVALS)
    found = confidence >= tau
    lost = float(found.float().mean()) * int(left.sum()) / int(e.correct.sum())
    if lost > FEWER:
        yield f"robust accuracy at {e.epsilon[norm]:g} in {norm} about {100 * lost:.0f} points lower"
