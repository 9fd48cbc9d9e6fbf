"""Robustness with a reject option: images of low confidence are refused, and an attack must get past that.

After Stutz, Hein and Schiele (CCAT, ICML 2020, arXiv 1910.06259, section 4). The confidence of an image is the
probability of its class, as log-odds, see `_confidence`. The threshold tau lets pass a share `tpr` of the held-out
images that are classified correctly. With c the confidence and f the class,

    robust error = #{some x' in the ball of x: f(x') != y and c(x') >= tau} / #{some x' in the ball: c(x') >= tau}

of which x itself and the x' that the attack finds are counted. It seeks the x' with the largest confidence in a wrong
class, by the log-odds alone and by letting the class win first: from x in the likeliest one at each step, as theirs
does, and then in turns, each towards those three of nine wrong classes of which the network is surest at one of ten
points: training images of that class pulled into the ball, in every other turn random points. A network that is unsure
nearly everywhere has no slope to climb at most points, and many maxima: the turns climb with momentum, and are taken
again, ten times at most, while they take more than 1 % of the images past tau. They are taken only where an adversarial
example is known in the ball: the attacks of the suite are better at finding whether there is one.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes._confidence import confidence
from marginbench.benchmarks.probes._confident_attack import (
    Draw,
    at_random,
    backtracked,
    from_confident_starts,
    from_images,
    settled,
    wrong_confidence,
)
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.methods import NORMS, Norm, predicted_class

IMAGES = 2000  # of the training images, to begin from
DRAWS, FOLLOWED = 10, 3  # points for each wrong class, and the classes that are followed
MORE, MOST = 0.01, 10  # the share of the images for which as many turns are worth it again, and how often at most


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
    turns: Annotated[int, Field(ge=0)] = 3  # of starts elsewhere; and again, while so many still take images past it

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """Confidences of the images and of attacked ones, as log-odds.

        rejection_threshold [], confidence_held_out [1, n] of the held-out images that are correct, confidence [N], and
        for each norm wrong_confidence_NORM [N], of the adversarial example of the largest confidence, -inf where none
        was found.
        """
        net, test, generator = subject.net, subject.test, subject.generator
        logits = logits_of(net, subject.held_out)
        held_out = confidence(logits)[predicted_class(logits) == subject.held_out.y]
        tau = threshold(held_out, self.tpr)
        images = from_images(subject.train.images(slice(IMAGES)), subject.train.y[:IMAGES])

        def attacked(part: slice) -> dict[str, Tensor]:
            x, y = test.images(part), test.y[part]
            found = {}
            for norm in NORMS:
                q = Query(net, x, y, norm, subject.epsilon[norm], x[:0], generator, fitting=chunks.size)
                known = subject.upper[norm][part] <= q.epsilon if norm in subject.upper else torch.ones_like(y).bool()
                found[f"wrong_confidence_{norm}"] = self._attacked(q, tau, known, images)
            return found

        chunks = Chunks(rows_at_once(net, test.images(slice(1))))
        parts = chunks.map(attacked, len(test))
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        confidences = {"confidence_held_out": held_out[None], "confidence": confidence(logits_of(net, test))}
        return {"rejection_threshold": tau, **confidences, **found}

    def _attacked(self, q: Query, tau: Tensor, attackable: Tensor, images: Draw) -> Tensor:
        """`wrong_confidence` [B]; in turns for the `attackable` images [B] bool, until past tau."""
        best = wrong_confidence(q, backtracked(self.steps))
        for _ in range(MOST):
            before = best >= tau
            for turn in range(self.turns):
                left = ((best < tau) & attackable).nonzero()[:, 0]
                if len(left):
                    draw = at_random if turn % 2 else images
                    starts = {"draws": DRAWS, "followed": FOLLOWED}
                    again = from_confident_starts(q.rows(left), settled(self.steps), draw, **starts)
                    best[left] = torch.maximum(best[left], again)
            if float(((best >= tau) & ~before).float().mean()) <= MORE:
                break
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
