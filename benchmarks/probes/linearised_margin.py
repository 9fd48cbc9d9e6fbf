"""Linearised margins of training images, at the input and at hidden layers, as quartiles.

After Jiang, Krishnan, Mobahi, Bengio: Predicting the Generalization Gap in Deep Networks with Margin Distributions,
ICLR 2019, arXiv 1810.00113, section 3. With z the logits, j the runner-up to the class y, h the activations of a layer,

    d = (z_y - z_j) / ||grad_h (z_y - z_j)||_2                 the distance to the boundary, were the rest linear
    d / sqrt(sum_i Var(h_i))                                   at a hidden layer: the square root of the total variation

and of the d of the correct images the quartiles and fences: the outermost values that are no outliers by Tukey's rule
(within 1.5 times the distance of the quartiles). As in the paper, misclassified images are left out and training images
are measured: what predicts the error on test images must not know it. Margins at the input stay in pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes._depths import DEPTHS, hidden_layers, outputs_of
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import Column
from marginbench.methods import NORMS, Norm, predicted_class

LAYERS = ("input", *(f"hidden_{depth}" for depth in range(1, DEPTHS + 1)))
SUMMARY = ("lower_fence", "q1", "median", "q3", "upper_fence")
RANKED = 8  # images that tell logits from hidden layers


@probe
class LinearisedMargin(Probe):
    """The signature of a margin distribution: five numbers of each of four layers."""

    key = "linearised_margin"
    rank = 4
    columns = tuple(
        Column(
            f"linearised_{layer}_median",
            f"linearised margin, {layer.replace('_', ' ')}",
            on_page=False,
            meaning=f"Median linearised L2 margin of correct training images {place}.",
        )
        for layer, place in zip(
            LAYERS,
            (
                "in pixels",
                *(f"at hidden layer {depth} of {DEPTHS}, by its total variation" for depth in range(1, DEPTHS + 1)),
            ),
            strict=True,
        )
    )

    points: PositiveInt = 1000  # training images

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """Of training images a summary for each layer, of the evaluated ones the margins at the input.

        linearised_train [4, 5] float32: layers by `SUMMARY`; NaN for the hidden layers of a network that has none.
        linearised_l2, linearised_linf [N] float32: in pixels, 0 for a wrong class, infinite where no gradient comes
        back.
        """
        train = subject.train.rows(subject.train.sample(self.points))
        layers = hidden_layers(subject.net, train.images(slice(RANKED)))
        found = _over(subject.net, train, layers)
        rows = [_summary(found.margins("l2")), *(_summary(found.hidden(i)) for i in range(len(layers)))]
        empty = [torch.full((len(SUMMARY),), torch.nan).to(rows[0])] * (len(LAYERS) - len(rows))
        test = _over(subject.net, subject.test, [])
        return {
            "linearised_train": torch.stack([*rows, *empty]).float(),
            **{f"linearised_{norm}": test.margins(norm).float() for norm in NORMS},
        }

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """linearised_LAYER_NUMBER, in the layers and numbers of the array; 0 where no image is right."""
        table = arrays["linearised_train"]
        return {
            f"linearised_{layer}_{number}": float(table[i, j])
            for i, layer in enumerate(LAYERS)
            for j, number in enumerate(SUMMARY)
        }


@dataclass(frozen=True)
class _Linearised:
    gap: Tensor  # [M] float64, z_y - z_j; 0 where the class is wrong
    slopes: dict[str, Tensor]  # dual norms of the gradient at the input, by norm, and L2 at each hidden layer: [M]
    variation: list[float]  # total variation of each hidden layer

    def margins(self, norm: Norm) -> Tensor:
        return _ratio(self.gap, self.slopes[norm])

    def hidden(self, layer: int) -> Tensor:
        return _ratio(self.gap, self.slopes[str(layer)]) / math.sqrt(self.variation[layer])


def _ratio(gap: Tensor, slope: Tensor) -> Tensor:
    """gap / slope, infinite where there is a gap and no slope, 0 where there is no gap."""
    return torch.where(gap > 0, gap / slope, 0.0)


def _over(net: nn.Module, images: Split, layers: list[nn.Module]) -> _Linearised:
    names = [*NORMS, *map(str, range(len(layers)))]

    def part_of(part: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
        x, y = images.images(part).requires_grad_(), images.y[part]
        with torch.enable_grad(), outputs_of(layers) as outputs:
            logits = attached(net, x)
            rival = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
            gap = (logits.gather(1, y[:, None]) - logits.gather(1, rival))[:, 0]
            hidden = [outputs[layer] for layer in layers]
            wanted = [x, *(h for h in dict.fromkeys(hidden) if h.requires_grad)]
            slopes = dict(zip(wanted, torch.autograd.grad(gap.sum(), wanted, allow_unused=True), strict=True))
        right = predicted_class(logits.detach()) == y
        by_layer = [_length(slopes.get(h), h, "l2") for h in hidden]
        sizes = torch.stack([*(_length(slopes[x], x, norm) for norm in NORMS), *by_layer])
        moments = [torch.stack([h.detach().flatten(1).double().pow(n).sum(0) for n in (1, 2)]) for h in hidden]
        return torch.where(right, gap.detach().double(), 0.0), sizes, moments

    chunks = Chunks(rows_at_once(net, images.images(slice(1))))
    gaps, sizes, moments = zip(*chunks.map(part_of, len(images)), strict=True)
    total = [sum(of_layer[1:], of_layer[0]) / len(images) for of_layer in zip(*moments, strict=True)]
    variation = [float((second - first.square()).clamp_min(0).sum()) for first, second in total]
    return _Linearised(torch.cat(gaps), dict(zip(names, torch.cat(sizes, 1), strict=True)), variation)


def _length(gradient: Tensor | None, of: Tensor, norm: Norm) -> Tensor:
    """[B] float64 dual norm of the gradient [B, ...], 0 where there is none."""
    if gradient is None:
        return torch.zeros(len(of), dtype=torch.float64, device=of.device)
    length: Tensor = gradient.flatten(1).double().norm(p=1 if norm == "linf" else 2, dim=1)
    return length


def _summary(margins: Tensor) -> Tensor:
    """[5] the numbers of `SUMMARY` over the margins [M] that are positive and finite; 0 where there are none."""
    kept = margins[(margins > 0) & margins.isfinite()]
    if len(kept) == 0:
        return margins.new_zeros(len(SUMMARY))
    low, middle, high = kept.quantile(kept.new_tensor([0.25, 0.5, 0.75]))
    reach = 1.5 * (high - low)
    fences = kept[kept >= low - reach].min(), kept[kept <= high + reach].max()
    return torch.stack([fences[0], low, middle, high, fences[1]])
