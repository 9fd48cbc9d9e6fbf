"""Robustness with a reject option: images of low confidence are refused, and an attack must get past that.

After Stutz, Hein and Schiele (CCAT, ICML 2020, arXiv 1910.06259, section 4). The confidence of an image is the
probability of its class; here its log-odds, log p - log(1 - p) = z_j - logsumexp_{k != j} z_k, stand for it: the same
order, and no rounding to 1 where logits are large. The threshold tau lets pass a share `tpr` of the held-out images
that are classified correctly. With c the confidence and f the class,

    robust error = #{some x' in the ball of x: f(x') != y and c(x') >= tau} / #{some x' in the ball: c(x') >= tau}

where the attack seeks the x' with the largest confidence in a wrong class.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import changes_class
from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.perturb import backtracking, random_start


def rejection_arrays(
    net: nn.Module,
    test: Split,
    held_out: Split,
    epsilon: Mapping[Norm, float],
    generator: torch.Generator,
    *,
    tpr: float,
    steps: int,
    restarts: int,
) -> dict[str, Tensor]:
    """What `thresholded` needs, for every image of `test`; confidences are log-odds.

    Args:
        net: network in eval mode with frozen parameters.
        held_out: images that choose the threshold: neither trained nor tested on.
        epsilon: radius of the balls, in pixels.
        tpr: share of the correct held-out images that must pass.
        steps: forward and backward passes of each start of the attack.
        restarts: random starts after one from the image itself, for the images not yet past the threshold.

    Returns:
        rejection_threshold [], confidence [N], and for each norm wrong_confidence_NORM [N], of the adversarial
        example of the largest confidence, -inf where none was found.
    """
    logits = logits_of(net, held_out)
    tau = threshold(_confidence(logits)[logits.argmax(1) == held_out.y], tpr)

    def attacked(part: slice) -> dict[str, Tensor]:
        x, y = test.images(part), test.y[part]
        found = {}
        for norm in NORMS:
            best = _attack(net, x, y, norm, epsilon[norm], steps, None)
            for _ in range(restarts):
                left = (best < tau).nonzero()[:, 0]
                again = _attack(net, x[left], y[left], norm, epsilon[norm], steps, generator)
                best[left] = torch.maximum(best[left], again)
            found[f"wrong_confidence_{norm}"] = best
        return found

    parts = Chunks(ROWS).map(attacked, len(test))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {"rejection_threshold": tau, "confidence": _confidence(logits_of(net, test)), **found}


def threshold(confidence: Tensor, tpr: float) -> Tensor:
    """The largest value that at least a share `tpr` of the confidences [n] reaches; -inf if there are none."""
    if len(confidence) == 0:
        return confidence.new_tensor(-torch.inf)
    return confidence.sort()[0][math.floor(len(confidence) * (1 - tpr) + 1e-9)]


def thresholded(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The metrics: accuracy of the images that are accepted, the share that is not, robust accuracies."""
    wrong = arrays["prediction"] != arrays["label"]
    accepted = arrays["confidence"] >= arrays["rejection_threshold"]
    out = {"rejection_rate": float(1 - accepted.mean()), "rejection_accuracy": 1 - _ratio(wrong & accepted, accepted)}
    for norm in NORMS:
        fooled = arrays[f"wrong_confidence_{norm}"] >= arrays["rejection_threshold"]
        error = _ratio((wrong & accepted) | fooled, accepted | fooled)
        out[f"rejection_robust_accuracy_{norm}"] = 1 - error
    return out


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def _confidence(logits: Tensor) -> Tensor:
    """Log-odds [B] of the largest logit."""
    return _log_odds(logits, logits.argmax(1, keepdim=True))


def _log_odds(logits: Tensor, index: Tensor) -> Tensor:
    """z_j - logsumexp_{k != j} z_k for j = index [B, 1]: [B]."""
    return (logits.gather(1, index) - logits.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True))[:, 0]


def _attack(
    net: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float, steps: int, generator: torch.Generator | None
) -> Tensor:
    """Log-odds [B] of the most confident wrong class found in the ball, -inf where the class stays right.

    Ascent on the log-odds of the likeliest wrong class, from x, or from a random point if there is a generator.
    """

    def confidence(image: Tensor) -> Tensor:
        logits = net(image)
        return _log_odds(logits, logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True))

    radius = x.new_full((len(x),), epsilon)
    start = torch.zeros_like(x) if generator is None else random_start(x, radius, norm, generator)
    delta = backtracking(confidence, x, start, epsilon=radius, step=radius, steps=steps, norm=norm)
    with torch.no_grad():
        logits = net((x + delta).clamp(0, 1))
        return torch.where(changes_class(logits, y), _confidence(logits), -torch.inf)
