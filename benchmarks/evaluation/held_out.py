"""Is the threshold of the reject option set on images like those that are tested?"""

from scipy.stats import betabinom

from marginbench.benchmarks.evaluation.evidence import Evidence, doubt

LEVEL = 1e-4  # of the test
TIMES = 2  # as many correct test images as held-out ones are refused


@doubt
def surer_of_held_out(e: Evidence) -> str | None:
    """The threshold of confidence, which is set on held-out images, refuses more than twice as large a share of the
    correct test images, and more than chance explains (p < 0.0001), as if the network had been trained on
    the validation images of the suite, from which the threshold comes. A threshold that is too high makes robust
    accuracy with the reject option too high."""
    if "confidence_held_out" not in e.arrays or not e.correct.any():
        return None
    held_out, tau = e.arrays["confidence_held_out"].flatten(), e.arrays["rejection_threshold"]
    below, refused = int((held_out < tau).sum()), e.arrays["confidence"][e.correct] < tau
    meant, share = below / max(len(held_out), 1), float(refused.float().mean())
    # of images drawn alike, the number below the k-th least of n others is beta-binomial, with k and n - k + 1
    p = float(betabinom.sf(int(refused.sum()) - 1, len(refused), below + 1, max(len(held_out) - below, 1)))
    if share <= TIMES * meant or p >= LEVEL:
        return None
    return f"refuses {share:.1%} of the correct test images, {meant:.1%} of the others"
