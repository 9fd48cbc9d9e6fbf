"""The margin among the directions in which images differ: within the leading principal components of the training data.

After Mouton, Rabe, Davel: Input Margins Can Predict Generalization Too, AAAI 2024, arXiv 2308.15466. With P [k, D] the
orthonormal leading principal components of training images,

    margin = min ||a||_2  subject to  f(x + P^T a) != y

by searches on the linearised network, as DeepFool makes it, in the coordinates a. k is at the elbow of the explained
variance. As in the paper, the images are correct ones of the training split. Unlike there, the images may leave the
box: clamping them would leave the span, and on a linear network gap / ||P grad|| would not be the answer. And an image
has several searches: the end of a single one is up to 1.4 times too far away for networks with normalised features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks._linear import linearise, top_rivals
from marginbench.benchmarks.attacks.ray import Attached, is_adversarial
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import Column
from marginbench.methods import Norm, predicted_class

SEARCHES = 18  # of each image at least: nine rivals from two places, or fewer from more
FIRST = 1 / 3  # of the steps are done in every search
KEPT = 3  # searches of an image that go on
STRIDE = 0.5  # longest step, as a share of the way to the nearest image of the rival
FOUND = 0.95  # of the images: a mean over fewer would be that of the easier ones
SHARE = 0.3  # of a step, once there was a success
HALVINGS = 10  # of the way to a point beyond the boundary
MOST_BYTES = 2**28  # of the images whose components are taken, in float64: fewer of large ones
OVERSHOOT = 0.03  # of the way, so that the place is beyond the boundary


@probe
class ConstrainedMargin(Probe):
    """Mean margin of correct training images within the leading principal components."""

    key = "constrained_margin"
    rank = 5
    columns = (
        Column(
            "constrained_margin",
            "constrained margin L2",
            on_page=False,
            meaning="Mean L2 margin of correct training images within the leading principal components, in pixels,"
            f" where a boundary was found; NaN if that is less than {FOUND:.0%} of them.",
        ),
    )

    points: PositiveInt = 500  # training images whose margin is sought
    sample: PositiveInt = 1000  # training images whose components are taken
    steps: PositiveInt = 12  # linearisations of each search, by those that do not go on a third of them
    rivals: PositiveInt = 10  # classes considered at first, by largest logit

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """constrained_train [min(points, M)] float32, and the number of components.

        The margins are in pixels: 0 for a wrong class, infinite where no boundary was found.
        """
        net, train = subject.net, subject.train
        room = MOST_BYTES // (8 * train.x[0].numel())
        basis = principal_components(train.images(train.sample(max(1, min(self.sample, room)))))
        chosen = train.rows(train.sample(self.points))
        span = Span.of(basis, chosen.images(slice(None)), chosen.y)

        def margins(part: slice) -> Tensor:
            x, y = chosen.images(part), chosen.y[part]
            with torch.no_grad():
                right = predicted_class(net(x)) == y
            found = torch.zeros(len(x), device=x.device)
            if bool(right.any()):  # not every network can be asked about no images
                found[right] = constrained_margins(net, x[right], y[right], span, self)
            return found

        chunks = Chunks(max(1, rows_at_once(net, chosen.images(slice(1))) // max(SEARCHES, 2 * self.rivals)))
        return {
            "constrained_train": torch.cat(chunks.map(margins, len(chosen))),
            "constrained_components": torch.tensor(len(basis)),
        }

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """Mean over the correct images whose boundary was found: NaN if those are too few, 0 if none is correct."""
        right = arrays["constrained_train"][arrays["constrained_train"] > 0]
        found = right[np.isfinite(right)]
        if not right.size:
            return {"constrained_margin": 0.0}
        return {"constrained_margin": float(found.mean()) if found.size >= FOUND * right.size else float("nan")}


def principal_components(images: Tensor) -> Tensor:
    """[k, D] float32 orthonormal components of images [n, ...], the one with the largest variance first.

    k is at the elbow of the sorted variances: the place furthest below the straight line from the first to the last,
    both axes scaled to [0, 1] (Satopaa, Albrecht, Irwin, Raghavan, ICDCS workshops 2011, for a curve without noise).
    """
    flat = images.flatten(1).double()
    flat = flat - flat.mean(0)
    if len(flat) < flat.shape[1]:  # the smaller one of two matrices with the same eigenvalues
        values, vectors = torch.linalg.eigh(flat @ flat.T)
        vectors = flat.T @ vectors
    else:
        values, vectors = torch.linalg.eigh(flat.T @ flat)
    k = elbow(values.flip(0).clamp_min(0))
    leading = vectors.flip(1)[:, :k]
    basis: Tensor = torch.linalg.qr(leading)[0]
    return basis.T.float().contiguous()


def elbow(values: Tensor) -> int:
    """How many of the descending values [m] lie before their elbow, 1 at least."""
    if len(values) < 3 or not float(values[0]) > float(values[-1]):
        return 1
    along = torch.linspace(0, 1, len(values), dtype=values.dtype, device=values.device)
    height = (values - values[-1]) / (values[0] - values[-1])
    return max(1, int((1 - along - height).argmax()))


@dataclass(frozen=True)
class Span:
    """Directions, and where training images lie along them."""

    basis: Tensor  # [k, D] float32, orthonormal
    places: Tensor  # [M, k] float32
    labels: Tensor  # [M] int64

    @classmethod
    def of(cls, basis: Tensor, images: Tensor, labels: Tensor) -> "Span":
        """Of the images [M, C, H, W]."""
        return cls(basis, images.flatten(1) @ basis.T, labels)

    def ways(self, x: Tensor, classes: Tensor, most: int) -> Tensor:
        """[B, R, n, k]: from each image [B, C, H, W] to the n <= `most` nearest of each class of [B, R].

        To those of any class where that one has no image, and NaN where it has less than n.
        """
        away = self.places - (x.flatten(1) @ self.basis.T)[:, None]
        same = self.labels == classes[:, :, None]
        others = ~same & same.any(2, keepdim=True)
        lengths = away.norm(dim=2)[:, None].masked_fill(others, torch.inf)
        length, nearest = lengths.topk(min(most, lengths.shape[2]), dim=2, largest=False)
        ways = away.gather(1, nearest.flatten(1)[:, :, None].expand(-1, -1, away.shape[2])).view(*length.shape, -1)
        return ways.masked_fill(length.isinf()[:, :, :, None], torch.nan)


def constrained_margins(net: nn.Module, x: Tensor, y: Tensor, span: Span, settings: "ConstrainedMargin") -> Tensor:
    """[B] float32 upper bounds of the margin within the span, infinite where no boundary was found.

    For each rival there are searches for the nearest point that it takes: from the image, and from the boundary on the
    way to the nearest image of the rival; to several of them where there are few rivals. The best ones of all go on,
    from the nearest points that they have found.

    Args:
        net: images [B, C, H, W] to logits; x: such images, in the class y [B] int64.
    """
    net = Attached(net)
    order = top_rivals(net, x, y, settings.rivals)
    ways = span.ways(x, order, max(1, SEARCHES // order.shape[1] - 1))
    nowhere = torch.zeros_like(ways[:, :, :1])
    starts = torch.cat([nowhere, ways.nan_to_num(0.0)], 2).flatten(0, 2)
    stride = torch.cat([torch.full_like(nowhere[..., 0], torch.inf), STRIDE * ways.norm(dim=3)], 2)
    count = stride.shape[1] * stride.shape[2]
    each = torch.arange(len(x), device=x.device).repeat_interleave(count)
    rival = order.flatten().repeat_interleave(stride.shape[2])
    paths = _Searches(net, x[each], y[each], rival, stride.flatten().nan_to_num(torch.inf), span.basis)
    first = math.ceil(FIRST * settings.steps)
    found, length = paths.descend(paths.shortened(starts), first)
    kept = length.view(-1, count).topk(min(KEPT, count), dim=1, largest=False).indices
    rows = (kept + count * torch.arange(len(x), device=x.device)[:, None]).flatten()
    paths = paths.only(rows)
    found, length = paths.descend(found[rows], settings.steps - first)
    length = torch.where(length.isfinite(), paths.shortened(found).norm(dim=1), torch.inf)
    return length.view(kept.shape).amin(1)


@dataclass(frozen=True)
class _Searches:
    """For the nearest points within the span that a class takes from another one. Each row is a search."""

    net: nn.Module
    x: Tensor  # [S, C, H, W]
    y: Tensor  # [S] int64
    rival: Tensor  # [S] int64
    stride: Tensor  # [S] the longest step
    basis: Tensor

    def only(self, rows: Tensor) -> "_Searches":
        """Some of them."""
        return replace(self, x=self.x[rows], y=self.y[rows], rival=self.rival[rows], stride=self.stride[rows])

    def descend(self, now: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The nearest places [S, k] found from those [S, k], and about their lengths [S]; infinite: none, the last one.

        The next place is where the tangent plane is nearest to the image, as in FAB (Croce, Hein, ICML 2020): all of
        the way to it until the first success, then a share of it, since it leads astray where the boundary is curved.
        """
        best = now
        length = torch.where(self.hit(now), now.norm(dim=1), torch.inf)
        for _ in range(steps):
            gap, gradient, _ = linearise(self.net, self.image(now), self.y, self.rival[:, None])
            slope = gradient[:, 0] @ self.basis.T
            size = slope.norm(dim=1, keepdim=True)
            normal = slope / size.clamp_min(1e-30)
            step = ((normal * now).sum(1, keepdim=True) - gap / size) * normal - now
            share = (self.stride / step.norm(dim=1)).clamp_max(1.0) * torch.where(length.isfinite(), SHARE, 1.0)
            now = torch.where(step.isfinite().all(1, keepdim=True), now + share[:, None] * step, now)
            tried = now * (1 + OVERSHOOT)
            closer = self.hit(tried) & (now.norm(dim=1) < length)
            best = torch.where(closer[:, None] | length.isinf()[:, None], tried, best)
            length = torch.where(closer, now.norm(dim=1), length)
        return best, length

    def shortened(self, places: Tensor) -> Tensor:
        """The places [S, k] beyond the boundary moved to it, on their rays; the others as they are."""
        low, high = torch.zeros_like(places[:, 0]), torch.ones_like(places[:, 0])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            beyond = self.hit(middle[:, None] * places)
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return high[:, None] * places

    def hit(self, places: Tensor) -> Tensor:
        """[S] bool: is the image there adversarial?"""
        return is_adversarial(self.net, self.image(places), self.y)

    def image(self, places: Tensor) -> Tensor:
        return self.x + (places @ self.basis).view_as(self.x)
