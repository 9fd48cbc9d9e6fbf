"""CLEVER: an estimate of the margin from gradients sampled around the image. It is no bound, from neither side.

Weng, Zhang, Chen, Yi, Su, Gao, Hsieh, Daniel: Evaluating the Robustness of Neural Networks: An Extreme Value Theory
Approach, ICLR 2018, arXiv 1801.10578. A network that hides its gradients has a large score and no margin.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.perturb import random_start
from marginbench.methods.words import counted

FLAT = 1e-6  # relative spread of the maxima below which they are all the same
SHAPE_PENALTY = 0.01  # of the authors' code: without it a thin tail fits best with an end at infinity
WORST_FIT = 1e-3  # p of the Kolmogorov-Smirnov test below which the fit counts for nothing


@probe
class Clever(Probe):
    """CLEVER scores; those of images with a wrong class are 0."""

    key = "clever"
    rank = 3
    columns = tuple(
        Column(
            f"clever_{norm}",
            f"CLEVER {NORM_TEXT[norm]}",
            meaning=f"Mean estimate of the margin in {NORM_TEXT[norm]} from sampled gradients: no bound.",
        )
        for norm in NORMS
    )

    radius: dict[Norm, PositiveFloat]  # of the balls that are sampled, in pixels; no score exceeds it
    points: PositiveInt = 100  # of the evaluation's images, sampled in the same way
    batches: PositiveInt = 50  # maxima that the distribution is fitted to; the paper: 500
    samples: PositiveInt = 128  # gradients in each of them; the paper: 1024
    rivals: PositiveInt = 3  # classes considered, by largest logit at the image

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """clever_NORM [N], NaN for the images that are not among the `points` sampled ones."""
        test, generator = subject.test, subject.generator
        index = test.sample(self.points)
        chunks = Chunks(rows_at_once(subject.net, test.images(index[:2]), most=self.samples))
        out = {}
        for norm in NORMS:
            scores = torch.full((len(test),), torch.nan, device=test.device)
            for i in index.split(1):
                x, y = test.images(i)[0], int(test.y[i])
                scores[i] = self._score(subject.net, x, y, norm, generator, chunks)
            out[f"clever_{norm}"] = scores
        return out

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """Means over the images that have a score."""
        return {f"clever_{norm}": float(np.nanmean(arrays[f"clever_{norm}"])) for norm in NORMS}

    def note(self, epsilon: Mapping[Norm, float]) -> str:
        return (
            f"CLEVER = mean estimate of the margin from sampled gradients, on {counted(self.points, 'point')}:"
            " no bound, from neither side."
        )

    def _score(
        self, net: nn.Module, x: Tensor, y: int, norm: Norm, generator: torch.Generator, chunks: Chunks
    ) -> float:
        """min over rivals j of min(g(x) / L, radius), g = z_y - z_j, L the estimate of max ||grad g||_q in the ball."""
        radius = self.radius[norm]
        with torch.no_grad():
            logits = net(x[None])[0]
        gaps = logits[y] - logits
        gaps[y] = torch.inf
        count = min(self.rivals, len(logits) - 1)
        nearest = gaps.topk(count, largest=False)[1]
        if not bool((gaps > 0).all()):
            return 0.0
        maxima = np.empty((count, self.batches))

        def steepest(points: Tensor) -> Tensor:
            """[rivals] the largest gradients at the points [n, C, H, W]."""
            points = points.clone().requires_grad_()
            sizes: list[Tensor] = []
            with torch.enable_grad():
                z = attached(net, points)
                for j in nearest.tolist():
                    (gradient,) = torch.autograd.grad(
                        (z[:, y] - z[:, j]).sum(), points, retain_graph=len(sizes) < count - 1
                    )
                    sizes.append(gradient.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1).max())
            return torch.stack(sizes)

        for batch in range(self.batches):
            ball = x.expand(self.samples, *x.shape)
            noise = random_start(ball, x.new_full((self.samples,), radius), norm, generator)
            points = (ball + noise).clamp(0, 1)
            parts = chunks.map(partial(_of_part, steepest, points), len(points))
            maxima[:, batch] = torch.stack(parts).amax(0).cpu().numpy()
        slopes = [max_of(row) for row in maxima]
        scores = [
            float(gaps[j]) / slope if slope > 0 else radius for j, slope in zip(nearest.tolist(), slopes, strict=True)
        ]
        return 0.0 if np.isnan(slopes).any() else min(radius, *scores)  # somewhere in the ball there is no class


def _of_part(function: Callable[[Tensor], Tensor], points: Tensor, part: slice) -> Tensor:
    return function(points[part])


def max_of(maxima: np.ndarray) -> float:
    """The right end of the reverse Weibull distribution of batch maxima [batches], or the largest where none fits.

    The fit is by maximum likelihood less SHAPE_PENALTY times the square of the shape, from the shape 1 and the scale of
    the sample; it must pass a Kolmogorov-Smirnov test, and its end must not lie below the largest maximum.
    """
    largest = float(maxima.max())
    if not np.isfinite(maxima).all() or largest - float(maxima.min()) <= FLAT * abs(largest):
        return largest
    from scipy import optimize, stats  # slow to import

    def penalised(loss: Callable[..., float], start: Any, args: tuple[Any, ...], disp: bool) -> Any:
        def total(theta: Any) -> float:
            return float(loss(theta, *args) + SHAPE_PENALTY * theta[0] ** 2)

        return optimize.fmin(total, start, disp=disp)

    fit: Any = stats.weibull_max.fit  # whose annotations know no optimiser of scipy's own
    scale = largest - float(maxima.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the likelihood of a bad shape overflows
        try:
            shape, end, width = fit(maxima, 1.0, loc=largest + 0.1 * scale, scale=scale, optimizer=penalised)
            fits = stats.kstest(maxima, "weibull_max", args=(shape, end, width)).pvalue >= WORST_FIT
        except (ValueError, RuntimeError, FloatingPointError):
            return largest
    return float(end) if fits and np.isfinite(end) and end >= largest else largest
