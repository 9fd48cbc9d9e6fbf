"""ROLL: every hidden unit far from its switch, and with a small gradient with respect to the image."""

from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    Method,
    Net,
    Norm,
    NotApplicable,
    Radii,
    Task,
    cross_entropy,
    param,
)
from marginbench.methods.maths.bounds.path import affine_head, path_of
from marginbench.methods.maths.bounds.regions import region_along, region_radii
from marginbench.methods.maths.bounds.sketch import is_wide, sampled_units


class Roll(Method):
    """L = CE(z) + weight (1/B) sum_i mean_{k in S_i} [ ||V_ik||^2 + hinge (1 - |u_ik|)_+ ].

    u_ik [B, N] are the pre-activations of all hidden units at x_i, V_ik [B, N, n] their gradients with respect to
    the pixels, and S_i the units with the largest terms, a share `top` of all: 1 is the mean over all of them, a small
    share the maximum. It relaxes the maximisation of the distance |u_k| / ||V_k|| as a transductive SVM does: the
    distance from the nearest switch is the radius in which the network is affine.
    """

    info: ClassVar[Info] = Info(
        key="roll",
        title="Robust locally linear networks (ROLL)",
        family="certified",
        paper="Lee, Alvarez-Melis, Jaakkola: Towards Robust, Locally Linear Deep Networks, ICLR 2019, arXiv 1907.03207",
        section="3.3.2, equation 9",
        year=2019,
        claims=("certified_radius",),
        neutral={"weight": 0.0},
        deviations=(
            "the gradients are with respect to pixels in [0, 1]; the paper's to the preprocessed image: where"
            " preprocessing divides by a standard deviation s, the squares here are 1/s^2 times the paper's. The"
            " defaults are the authors' for MNIST, s = 0.31, in these units",
            "exact gradients, by pushing unit vectors through the frozen network as in the authors' code for dense"
            " networks, or back from units that see few pixels; where pixels times hidden units are above 50 million,"
            " 50 random pixels stand for all, the same for a batch, as in 4.2, equation 10",
            "batch norm in training is the affine map that the statistics of the batch make of it, the same for all"
            " images; layers that methods/maths/bounds/path.py does not know, such as max pooling, are refused",
        ),
    )

    weight: float = param(
        0.2, "factor of the penalty", unit="1", source="table 1: 2, see deviations", search=(0.02, 0.2, 2.0), ge=0
    )
    hinge: float = param(
        2.5,
        "C, factor of the hinge",
        unit="1",
        source="section 5.1: 0.25 or 1, see deviations",
        search=(0.25, 2.5, 10.0),
        ge=0,
    )
    top: float = param(
        1.0, "share of the units that counts", unit="1", source="section 5.1", search=(0.1, 0.5, 1.0), gt=0, le=1
    )

    def build(self, net: Net, task: Task) -> Net:
        path_of(net, task.input_shape)  # refuses layers for which no region is known
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        risk = cross_entropy(net(batch.x), batch)
        with torch.autocast(batch.x.device.type, enabled=False):
            units, squares = _units(net, batch.x, ctx)
            hinges = self.hinge * (1 - units.abs()).relu()
            total = hinges.shape[1]
            count = max(round(self.top * total), min(1, total))
            terms = squares + hinges
            penalty = terms.topk(count, dim=1)[0].sum() / max(len(terms) * count, 1)
        parts = {"risk": risk.detach(), "penalty": penalty.detach()}
        return Loss(risk + self.weight * penalty, parts)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return region_radii(net, x, norm)


def _units(net: Net, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
    """Pre-activations of all hidden units, and the squared norms of their gradients: [B, N] each."""
    path, pixels = path_of(net, ctx.task.input_shape, clean=x), x.flatten(1)
    if is_wide(path, pixels.shape[1]):
        return sampled_units(path, pixels, ctx.generator)
    region = region_along(path, affine_head(net), pixels)
    return region.units, region.unit_lengths("l2").square()
