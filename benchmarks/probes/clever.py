"""CLEVER: an estimate of the margin from gradients sampled around the image. It is no bound, from neither side.

Weng, Zhang, Chen, Yi, Su, Gao, Hsieh, Daniel: Evaluating the Robustness of Neural Networks: An Extreme Value Theory
Approach, ICLR 2018, arXiv 1801.10578. A network that hides its gradients has a large score and no margin.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.perturb import random_start

FLAT = 1e-6  # relative spread of the maxima below which they are all the same
WORST_FIT = 1e-3  # p of the Kolmogorov-Smirnov test below which the fit counts for nothing


def clever_arrays(
    net: nn.Module,
    test: Split,
    radius: Mapping[Norm, float],
    generator: torch.Generator,
    *,
    points: int,
    batches: int,
    samples: int,
    rivals: int,
) -> dict[str, Tensor]:
    """Scores of the first `points` images, NaN for the others: clever_NORM [N], 0 where the class is wrong.

    Args:
        net: network in eval mode with frozen parameters.
        radius: of the balls that are sampled, in pixels; no score exceeds it.
        batches: maxima that the distribution is fitted to.
        samples: gradients in each of them.
        rivals: classes considered, by largest logit at the image.
    """
    x, y = test.images(slice(points)), test.y[:points]
    out = {}
    for norm in NORMS:
        scores = torch.full((len(test),), torch.nan, device=x.device)
        for i in range(len(x)):
            scores[i] = _score(net, x[i], int(y[i]), norm, radius[norm], generator, batches, samples, rivals)
        out[f"clever_{norm}"] = scores
    return out


def _score(
    net: nn.Module,
    x: Tensor,
    y: int,
    norm: Norm,
    radius: float,
    generator: torch.Generator,
    batches: int,
    samples: int,
    rivals: int,
) -> float:
    """min over rivals j of min(g(x) / L, radius), g = z_y - z_j and L the estimate of max ||grad g||_q in the ball."""
    with torch.no_grad():
        logits = net(x[None])[0]
    gaps = logits[y] - logits
    gaps[y] = torch.inf
    count = min(rivals, len(logits) - 1)
    nearest = gaps.topk(count, largest=False)[1]
    if bool((gaps <= 0).any()):
        return 0.0
    maxima = np.empty((count, batches))
    for batch in range(batches):
        ball = x.expand(samples, *x.shape)
        noise = random_start(ball, x.new_full((samples,), radius), norm, generator)
        point = (ball + noise).clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            z = net(point)
            for row, j in enumerate(nearest.tolist()):
                (gradient,) = torch.autograd.grad((z[:, y] - z[:, j]).sum(), point, retain_graph=row < count - 1)
                size = gradient.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1)
                maxima[row, batch] = float(size.max())
    slopes = [max_of(row) for row in maxima]
    scores = [
        float(gaps[j]) / slope if slope > 0 else radius for j, slope in zip(nearest.tolist(), slopes, strict=True)
    ]
    return min(radius, *scores)


def max_of(maxima: np.ndarray) -> float:
    """The right end of the reverse Weibull distribution of batch maxima [batches], or the largest where none fits.

    The fit is by maximum likelihood, from the shape 1 and the scale of the sample; it must pass a Kolmogorov-Smirnov
    test, and its end must not lie below the largest maximum.
    """
    largest = float(maxima.max())
    if not np.isfinite(maxima).all() or largest - float(maxima.min()) <= FLAT * abs(largest):
        return largest
    from scipy import stats  # slow to import

    scale = largest - float(maxima.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the likelihood of a bad shape overflows
        try:
            shape, end, width = stats.weibull_max.fit(maxima, 1.0, loc=largest + 0.1 * scale, scale=scale)
            fits = stats.kstest(maxima, "weibull_max", args=(shape, end, width)).pvalue >= WORST_FIT
        except (ValueError, RuntimeError, FloatingPointError):
            return largest
    return float(end) if fits and np.isfinite(end) and end >= largest else largest
