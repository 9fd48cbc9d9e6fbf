"""The margin among the directions in which images differ: within the leading principal components of the training data.

After Mouton, Rabe, Davel: Input Margins Can Predict Generalization Too, AAAI 2024, arXiv 2308.15466. With P [k, D] the
orthonormal leading principal components of training images,

    margin = min ||a||_2  subject to  f(x + P^T a) != y

by a search on the linearised network, as DeepFool makes it, in the coordinates a. k is at the elbow of the explained
variance. As in the paper, the images are correct ones of the training split. Unlike there, the images may leave the
box: clamping them would leave the span, and on a linear network gap / ||P grad|| would not be the answer.
"""

from collections.abc import Mapping

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

KEPT = 3  # rivals in play after the first step: the nearest
HALVINGS = 10  # of the way to a point beyond the boundary
MOST_BYTES = 2**28  # of the images whose components are taken, in float64: fewer of large ones
OVERSHOOT = 0.02  # share of the way, at first


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
            meaning="Mean L2 margin of correct training images within the leading principal components, in pixels.",
        ),
    )

    points: PositiveInt = 500  # training images whose margin is sought
    sample: PositiveInt = 1000  # training images whose components are taken
    steps: PositiveInt = 8  # linearisations
    rivals: PositiveInt = 10  # classes considered at first, by largest logit

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """constrained_train [min(points, M)] float32, and the number of components.

        The margins are in pixels: 0 for a wrong class, infinite where no boundary was found.
        """
        net, train = subject.net, subject.train
        room = MOST_BYTES // (8 * train.x[0].numel())
        basis = principal_components(train.images(train.sample(max(1, min(self.sample, room)))))
        chosen = train.rows(train.sample(self.points))

        def margins(part: slice) -> Tensor:
            x, y = chosen.images(part), chosen.y[part]
            with torch.no_grad():
                right = predicted_class(net(x)) == y
            found = torch.zeros(len(x), device=x.device)
            if bool(right.any()):  # not every network can be asked about no images
                found[right] = constrained_margins(net, x[right], y[right], basis, self.steps, self.rivals)
            return found

        chunks = Chunks(rows_at_once(net, chosen.images(slice(1))))
        return {
            "constrained_train": torch.cat(chunks.map(margins, len(chosen))),
            "constrained_components": torch.tensor(len(basis)),
        }

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """Mean over the correct images whose boundary was found: NaN if that is less than half of them, 0 for none."""
        right = arrays["constrained_train"][arrays["constrained_train"] > 0]
        found = right[np.isfinite(right)]
        if not right.size:
            return {"constrained_margin": 0.0}
        return {"constrained_margin": float(found.mean()) if 2 * found.size >= right.size else float("nan")}


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


def constrained_margins(net: nn.Module, x: Tensor, y: Tensor, basis: Tensor, steps: int, rivals: int) -> Tensor:
    """[B] float32 upper bounds of the margin within the basis, infinite where no boundary was found.

    Until the first success each step starts at the last point; afterwards at the image: the point of the tangent plane
    nearest to the image is the next guess of the nearest point of the boundary, as in FAB (Croce, Hein, ICML 2020).

    Args:
        net: images [B, C, H, W] to logits; x: such images, in the class y [B] int64.
        basis: [k, D] orthonormal.
    """
    net, row = Attached(net), torch.arange(len(x), device=x.device)
    order = top_rivals(net, x, y, rivals)
    now = best = x.new_zeros(len(x), len(basis))
    length = x.new_full((len(x),), torch.inf)
    share = torch.full_like(length, OVERSHOOT)

    def at(a: Tensor) -> Tensor:
        return x + (a @ basis).view_as(x)

    for step in range(steps):
        gap, gradient, _ = linearise(net, at(now), y, order)
        slope = gradient @ basis.T  # [B, R, k]
        start = torch.where(length.isfinite()[:, None], 0.0, now)
        offset = (slope * (now - start)[:, None]).sum(2) - gap
        size = slope.norm(dim=2)
        way = torch.where(size > 0, offset / size, torch.inf)
        nearest = way.argmin(1)
        distance, normal = way[row, nearest], slope[row, nearest] / size[row, nearest, None].clamp_min(1e-30)
        reach = (distance + share * distance.abs())[:, None] * normal
        now = torch.where(distance.isfinite()[:, None], start + reach, now)
        found = is_adversarial(net, at(now), y)
        closer = found & (now.norm(dim=1) < length)
        best = torch.where(closer[:, None], now, best)
        length = torch.where(closer, now.norm(dim=1), length)
        share = torch.where(found, (share / 10).clamp_min(1e-6), (share * 10).clamp_max(OVERSHOOT))
        if step == 0:
            order = order.gather(1, way.topk(min(KEPT, order.shape[1]), dim=1, largest=False).indices)
    low, high = torch.zeros_like(length), torch.ones_like(length)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        beyond = is_adversarial(net, at(middle[:, None] * best), y)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return torch.where(length.isfinite(), high * best.norm(dim=1), torch.inf)
