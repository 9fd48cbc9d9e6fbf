"""Is the threshold of the reject option set on images like those that are tested?"""

from scipy.stats import mannwhitneyu

from marginbench.benchmarks.evaluation.evidence import Evidence, doubt

LEVEL = 1e-4  # of the test
TIMES = 2  # as many correct test images as held-out ones are refused


@doubt
def surer_of_held_out(e: Evidence) -> str | None:
    """The network is surer of correct held-out images than of correct test images (Mann-Whitney, p < 0.0001), and
    refuses the latter more than twice as often. So the threshold of confidence is too high, and with it robust accuracy
    with the reject option. Was it trained on the validation images of the suite, from which that comes?"""
    if "confidence_held_out" not in e.arrays or not e.correct.any():
        return None
    tau = e.arrays["rejection_threshold"]
    held_out, test = e.arrays["confidence_held_out"].flatten(), e.arrays["confidence"][e.correct]
    refused, meant = float((test < tau).float().mean()), float((held_out < tau).float().mean())
    if refused <= TIMES * meant or not len(held_out):
        return None
    p = float(mannwhitneyu(held_out.cpu().numpy(), test.cpu().numpy(), alternative="greater").pvalue)
    return f"refuses {refused:.1%} of the correct test images, {meant:.1%} of the others" if p < LEVEL else None
