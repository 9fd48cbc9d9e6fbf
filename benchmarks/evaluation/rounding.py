"""What rounding in float32 costs the certificates."""

import torch

from marginbench.benchmarks.evaluation.coarse import coarsest_type, is_coarse
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt
from marginbench.methods import NORMS
from marginbench.methods.maths.rounding import logit_allowance

TENTH, SHARE = 0.1, 0.01  # of a logit gap, and of the correct points


@doubt
def rounded_away(e: Evidence) -> str | None:
    """For more than 1 % of the correct points rounding in float32 may move a tenth of the logit gap or more.

    It was measured against the network in float64. Certified radii are shortened by what it may move.
    """
    index = e.correct.nonzero()[:, 0]
    if not e.certificates or len(index) == 0 or is_coarse(coarsest_type(e.net, e.x[:1])):  # such have none to lose
        return None
    share = 0.0
    for norm in NORMS:
        q = e.query(norm, index)
        layers = e.net.decision_net()
        with torch.no_grad():
            logits = layers(q.x)
            if not torch.equal(logits, layers(q.x)):  # random numbers, of which another doubt speaks
                continue
        gaps = (logits.gather(1, q.y[:, None]) - logits).scatter(1, q.y[:, None], torch.inf)
        moved = logit_allowance(layers, q.x, q.epsilon, norm)
        share = max(share, float((moved >= TENTH * gaps).any(1).float().mean()))
    return f"{share:.1%} of correct points" if share > SHARE else None
