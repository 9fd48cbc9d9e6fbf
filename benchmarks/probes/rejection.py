"""Robustness with a reject option: images of low confidence are refused, and an attack must get past that.

After Stutz, Hein and Schiele (CCAT, ICML 2020, arXiv 1910.06259, section 4). The confidence of an image is the
probability p of its class; here log p - log((1 - p) / (K - 1)) = -log mean_{k != j} exp(z_k - z_j) stands for it, the
log-odds less those of a guess: the same order, and no rounding to 1 where logits are large, or to 1 / K where they are
tiny. The threshold tau lets pass a share `tpr` of the held-out images that are classified correctly. With c the
confidence and f the class,

    robust error = #{some x' in the ball of x: f(x') != y and c(x') >= tau} / #{some x' in the ball: c(x') >= tau}

of which x itself and the x' that the attack finds are counted. It seeks the x' with the largest confidence in a wrong
class: from x in the likeliest one at each step, as theirs does, and then from random points in each of the likeliest
ones of x in turn, since the likeliest class on the way is often not the one that can grow confident. The latter only
where an adversarial example is known in the ball: the attacks of the suite are better at finding whether there is one.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import current_rivals, top_rivals
from marginbench.benchmarks.attacks.ray import attached, changes_class
from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.methods import NORMS, Norm, predicted_class
from marginbench.methods.maths.perturb import backtracking, random_start
from marginbench.methods.method import UNDECIDED


@probe
class Rejection(Probe):
    """Robustness where images of low confidence may be refused."""

    key = "rejection"
    rank = 1
    columns = (
        Column(
            "rejection_rate", "rejected %", 100, 1, ascending=True, on_page=False, meaning="Share of images refused."
        ),
        Column(
            "rejection_accuracy", "accepted clean %", 100, 1, on_page=False, meaning="Accuracy of the images accepted."
        ),
        *(
            Column(
                f"rejection_robust_accuracy_{norm}",
                f"rejecting % {NORM_TEXT[norm]} {{{norm}:g}}",
                100,
                1,
                meaning=f"Robust accuracy in {NORM_TEXT[norm]} where images of low confidence may be refused.",
            )
            for norm in NORMS
        ),
    )

    tpr: float = Field(gt=0, le=1)  # share of the correct held-out images that must be accepted
    steps: PositiveInt  # of each start of the attack
    restarts: Annotated[int, Field(ge=0)] = 9  # random starts, for the attackable images not yet past the threshold

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """Confidences of the images and of attacked ones, as log-odds.

        rejection_threshold [], confidence_held_out [1, n] of the held-out images that are correct, confidence [N], and
        for each norm wrong_confidence_NORM [N], of the adversarial example of the largest confidence, -inf where none
        was found.
        """
        net, test, generator = subject.net, subject.test, subject.generator
        logits = logits_of(net, subject.held_out)
        held_out = _confidence(logits)[predicted_class(logits) == subject.held_out.y]
        tau = threshold(held_out, self.tpr)

        def attacked(part: slice) -> dict[str, Tensor]:
            x, y = test.images(part), test.y[part]
            found = {}
            for norm in NORMS:
                q = Query(net, x, y, norm, subject.epsilon[norm], reference=x[:0], generator=generator)
                known = subject.upper[norm][part] <= q.epsilon if norm in subject.upper else torch.ones_like(y).bool()
                found[f"wrong_confidence_{norm}"] = self._attacked(q, tau, known)
            return found

        parts = Chunks(rows_at_once(net, test.images(slice(1)))).map(attacked, len(test))
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        confidences = {"confidence_held_out": held_out[None], "confidence": _confidence(logits_of(net, test))}
        return {"rejection_threshold": tau, **confidences, **found}

    def _attacked(self, q: Query, tau: Tensor, attackable: Tensor) -> Tensor:
        """`wrong_confidence` [B] from all starts; the random ones of `attackable` images [B] bool, until past tau."""
        best = wrong_confidence(q, self.steps)
        rivals = top_rivals(q.net, q.x, q.y, self.restarts)
        begun = 0
        while begun < self.restarts and len(left := ((best < tau) & attackable).nonzero()[:, 0]):
            turns = range(begun, min(self.restarts, begun + len(q.x) // len(left)))  # no more rows than images
            rival = torch.cat([rivals[left, turn % rivals.shape[1]] for turn in turns])
            asked = q.rows(left.repeat(len(turns)))
            start = random_start(asked.x, q.x.new_full(rival.shape, q.epsilon), q.norm, q.generator)
            again = wrong_confidence(asked, self.steps, rival, start)
            best[left] = torch.maximum(best[left], again.view(len(turns), -1).amax(0))
            begun = turns.stop
        return best

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """Accuracy of the images that are accepted, the share that is not, robust accuracies; NaN over no images."""
        wrong = arrays["prediction"] != arrays["label"]
        accepted = arrays["confidence"] >= arrays["rejection_threshold"]
        out = {
            "rejection_rate": float(1 - accepted.mean()),
            "rejection_accuracy": 1 - _ratio(wrong & accepted, accepted),
        }
        for norm in NORMS:
            found = arrays[f"wrong_confidence_{norm}"]
            fooled = (found > -np.inf) & (found >= arrays["rejection_threshold"])
            error = _ratio((wrong & accepted) | fooled, accepted | fooled)
            out[f"rejection_robust_accuracy_{norm}"] = 1 - error
        return out

    def note(self, epsilon: Mapping[Norm, float]) -> str:
        return (
            f"rejecting = robust % where images of low confidence may be refused (threshold: {self.tpr:.0%} of the"
            " correct held-out images pass), against an attack that seeks confidence in a wrong class."
        )


def threshold(confidence: Tensor, tpr: float) -> Tensor:
    """The largest value that at least a share `tpr` of the confidences [n] reaches; -inf if there are none."""
    if len(confidence) == 0:
        return confidence.new_tensor(-torch.inf)
    return confidence.sort()[0][math.floor(len(confidence) * (1 - tpr) + 1e-9)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    """NaN of nothing: where no image is accepted, there is no accuracy."""
    return float(part.sum() / whole.sum()) if whole.any() else math.nan


def _confidence(logits: Tensor) -> Tensor:
    """`_log_odds` [B] of the largest logit; NaN, which reaches no threshold, where the logits decide nothing."""
    winner = predicted_class(logits)
    return _log_odds(logits, winner.clamp(min=0)[:, None]).masked_fill(winner == UNDECIDED, torch.nan)


def _log_odds(logits: Tensor, index: Tensor) -> Tensor:
    """-log mean_{k != j} exp(z_k - z_j) for j = index [B, 1]: [B]. Precise at any scale of the logits."""
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, index, value=False)
    gaps = (logits - logits.gather(1, index))[others].view(len(logits), -1)
    near = -gaps.clamp(-1, 1).expm1().mean(1).log1p()  # log(K - 1) would round small gaps away
    far = math.log(gaps.shape[1]) - gaps.logsumexp(1)
    return torch.where(gaps.abs().amax(1) < 1, near, far)


def wrong_confidence(q: Query, steps: int, rival: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Log-odds [B] of the most confident wrong class found in the ball, -inf where the class stays right.

    Ascent on the log-odds of a wrong class. Gradients are those of logits of a usual size: squares of others overflow,
    or vanish.

    Args:
        rival: [B] int64, the class. Default: the likeliest one at each step.
        start: [B, C, H, W] first perturbation, in the ball. Default: none, which is x.
    """
    with torch.no_grad():
        unit = _unit(q.net(q.x))

    def confidence(image: Tensor) -> Tensor:
        logits = attached(q.net, image)
        followed = current_rivals(logits, q.y, None if rival is None else rival[:, None])
        return _log_odds(logits, followed) / unit

    radius = q.x.new_full((len(q.x),), q.epsilon)
    first = torch.zeros_like(q.x) if start is None else start
    delta = backtracking(confidence, q.x, first, epsilon=radius, step=radius, steps=steps, norm=q.norm)
    with torch.no_grad():
        logits = q.net((q.x + delta).clamp(0, 1))
        found = torch.where(changes_class(logits, q.y), _confidence(logits), -torch.inf)
        return found.where(~found.isnan(), -torch.inf)


def _unit(logits: Tensor) -> Tensor:
    """The power of 2 [] next to the largest finite logit gap of the images, by which nothing is rounded."""
    gaps = logits.amax(1, keepdim=True) - logits
    largest = gaps.where(gaps.isfinite(), 0.0).amax()
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest.where(largest > 0, 1.0)).exponent - 1)
