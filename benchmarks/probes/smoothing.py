"""The smoothed classifier: which class wins a vote over noisy copies of an image, and up to which L2 radius for sure.

After Cohen, Rosenfeld and Kolter (ICML 2019, arXiv 1902.02918, section 3.2.2, CERTIFY). A network f is smoothed to

    g(x) = argmax_c P(f(x + e) = c),   e ~ N(0, sigma^2 I) in pixels of [0, 1], not clipped.

Of n0 noisy copies of x, most go to a class A. Of n further copies, independent of those, k go to A, and

    p = Clopper-Pearson bound: the p for which P(Binomial(n, p) >= k) = alpha
    radius = sigma Phi^-1(p) if p > 1/2, else g abstains.

For each image, with probability 1 - alpha or more over the noise, g answers A everywhere within the radius. That says
nothing about f, whose margin stands in other columns. No radius exceeds sigma Phi^-1(alpha^(1/n)), which n votes of n
give: two tables compare only at the same n and alpha.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.budget import available
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import Column
from marginbench.methods import Norm, predicted_class
from marginbench.methods.method import UNDECIDED

ABSTAIN = -1
BLOCK = 200  # noisy copies of an image that are drawn at once: on one CPU core they stay in its cache
NOISY_ROWS = {"cpu": BLOCK}  # noisy copies in a forward pass, by type of device
OTHER_ROWS = 100 * BLOCK


@probe
class Smoothing(Probe):
    """The smoothed classifier g; the settings are the arguments of `smoothing_arrays`."""

    key = "smoothing"
    rank = 2
    columns = (
        Column("smoothed_accuracy", "smoothed %", 100, 1, meaning="Accuracy of the vote over noisy copies."),
        Column(
            "smoothed_certified_accuracy_l2",
            "smoothed certified % L2 {l2:g}",
            100,
            1,
            meaning="Share of images for which that vote is certified to be right up to the radius.",
        ),
        Column("smoothed_radius_l2", "smoothed radius L2", meaning="Mean certified radius of that vote, in pixels."),
        Column(
            "smoothed_abstention",
            "smoothed abstaining %",
            100,
            1,
            ascending=True,
            on_page=False,
            meaning="Share of images for which that vote gives no answer.",
        ),
    )

    sigma: float = Field(gt=0)  # of the noise, in pixels of [0, 1]
    n0: PositiveInt = 100  # noisy copies that select the class
    n: PositiveInt  # noisy copies that estimate its probability
    alpha: float = Field(default=0.001, gt=0, lt=1)  # probability that a radius is wrong, at most
    share: PositiveInt = 1  # consecutive images that get the same noise

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """CERTIFY for every image: see `smoothing_arrays`."""
        return smoothing_arrays(subject.net, subject.test, subject.seed, **self.model_dump())

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """The metrics of g; an image where g abstains or is wrong counts as radius 0.

        Accuracy: share of images for which g certifies the true class at all; certified accuracy: with a radius of
        epsilon or more; abstention: share without an answer; radius: mean over all images.
        """
        correct = arrays["smoothed_prediction"] == arrays["label"]
        radius = np.where(correct, arrays["smoothed_radius"], 0.0)
        return {
            "smoothed_accuracy": float(correct.mean()),
            "smoothed_certified_accuracy_l2": float((correct & (radius >= epsilon["l2"])).mean()),
            "smoothed_abstention": float((arrays["smoothed_prediction"] == ABSTAIN).mean()),
            "smoothed_radius_l2": float(radius.mean()),
        }

    def note(self, epsilon: Mapping[Norm, float]) -> str:
        ceiling = radius_ceiling(self.sigma, self.n, self.alpha)
        return (
            "smoothed = of another classifier, the vote of the network over images with Gaussian noise (sigma"
            f" {self.sigma:g}): accuracy, certified accuracy and mean radius, each radius wrong with probability"
            f" {self.alpha:g} at most; {self.n} votes cannot certify beyond {ceiling:.3f}."
        )


@dataclass(frozen=True)
class Noise:
    """Gaussian noise for images in a row."""

    sigma: float  # standard deviation, in pixels
    streams: list[torch.Generator]
    share: int  # consecutive images that each stream serves


def smoothing_arrays(
    net: nn.Module,
    test: Split,
    seed: str | int,
    *,
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
    share: int = 1,
    rows: int | None = None,
) -> dict[str, Tensor]:
    """CERTIFY for every image of `test`.

    Each stream of noise is seeded by a position in `test`. Neither the other images nor `rows` change the result of an
    image, beyond what the sums inside `net` round differently in batches of another size.

    Args:
        net: network in eval mode with frozen parameters. Logits that decide nothing vote for no class.
        seed: of the noise.
        sigma: standard deviation of the noise, in pixels.
        n0: noisy copies that select the class.
        n: noisy copies that estimate its probability.
        alpha: probability that the radius of an image is wrong, at most.
        share: consecutive images that get the same noise. The copies of one image are independent for any value, so
            that its radius is wrong with probability alpha or less, and alpha bounds the expected share of wrong radii.
            With 1, as in the paper, the images are independent too, and means over them scatter least.
        rows: noisy copies in a forward pass, rounded to a multiple of BLOCK; default: what suits the device.

    Returns:
        smoothed_prediction [N] int64, ABSTAIN (-1) where no class is certified; smoothed_radius [N] float64 around
        that class, in pixels, 0 where it abstains.
    """
    x = test.images(slice(None))
    streams = [seeds.generator(x.device, "smoothing", seed, i) for i in range(0, len(x), share)]
    together = max(1, (rows or NOISY_ROWS.get(x.device.type, OTHER_ROWS)) // BLOCK)
    if len(x):
        together = max(1, min(together, available(x.device) // (4 * BLOCK * x[0].nbytes)))
    noise = Noise(sigma, streams, share)
    chunks = Chunks(rows_at_once(net, x, most=together * BLOCK, gradients=False))
    selected = _votes(net, x, noise, n0, together, chunks).argmax(1)
    count = _votes(net, x, noise, n, together, chunks).gather(1, selected[:, None])[:, 0]
    lower = lower_bound(count.cpu().numpy(), n, alpha)
    radius = torch.from_numpy(_radius(lower, sigma)).to(x.device)
    return {"smoothed_prediction": torch.where(radius > 0, selected, ABSTAIN), "smoothed_radius": radius}


def lower_bound(count: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Clopper and Pearson's one-sided bound [N] for `count` [N] successes of n, below the truth with 1 - alpha.

    It solves P(Binomial(n, p) >= count) = alpha, which is the alpha-quantile of Beta(count, n - count + 1); 0 for none.
    """
    from scipy.stats import beta  # slow to import

    quantile = beta.ppf(alpha, np.maximum(count, 1), n - np.maximum(count, 1) + 1)
    return np.where(count > 0, quantile, 0.0)


def radius_ceiling(sigma: float, n: int, alpha: float) -> float:
    """The largest radius that n noisy copies can certify, in pixels: sigma Phi^-1(alpha^(1/n)), 0 if that is < 0."""
    return float(_radius(np.array(alpha ** (1 / n)), sigma))


def _radius(lower: np.ndarray, sigma: float) -> np.ndarray:
    """sigma Phi^-1(p) for p = lower [...], 0 up to p = 1/2."""
    from scipy.stats import norm

    return np.asarray(sigma * norm.ppf(np.maximum(lower, 0.5)))


@torch.no_grad()
def _votes(net: nn.Module, x: Tensor, noise: Noise, count: int, together: int, chunks: Chunks) -> Tensor:
    """How many of `count` noisy copies of each image x [N, ...] go to each of the K classes: [N, K] int64.

    Each batch holds `together` images. Nothing here waits for the device. Noise is drawn in blocks of one size: on a
    GPU, which numbers a generator gives depends on how many are asked for at once.
    """
    drawn = x.new_empty(min(BLOCK, count), *x.shape[1:])
    noisy = x.new_empty(min(together, len(x)), *drawn.shape)
    votes: Tensor | None = None
    for start in range(0, count, BLOCK):
        block = drawn[: count - start]
        for first in range(0, len(x), together):
            images = x[first : first + together]
            batch = noisy[: len(images), : len(block)]
            for i, image in enumerate(images):
                if (first + i) % noise.share == 0:
                    block.normal_(0, noise.sigma, generator=noise.streams[(first + i) // noise.share])
                torch.add(block, image, out=batch[i])
            logits = chunks.rows(net, batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
            if votes is None:
                votes = logits.new_zeros(len(x), logits.shape[2], dtype=torch.int64)
            winner = predicted_class(logits.flatten(0, 1)).view(batch.shape[:2])
            votes[first : first + together].scatter_add_(1, winner.clamp(min=0), (winner != UNDECIDED).long())
    assert votes is not None
    return votes
