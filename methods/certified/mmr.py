"""MMR: a margin for the linear region of an image, and for the decision planes of the affine map within it."""

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
from marginbench.methods.maths.bounds.path import path_of
from marginbench.methods.maths.bounds.regions import decision_distances, region_of, region_radii, unit_distances
from marginbench.methods.maths.bounds.training import ramp


class MMR(Method):
    """L = CE(z) + weight r (1/B) sum_i [ (1/n) sum_{k in S_i} (1 - d_ik / gamma_b)_+
                                         + (1/K) sum_{j != y} (1 - e_ij / gamma_d)_+ ].

    d_ik = |u_k| / ||V_k||_q [B, N] is the distance of x_i from the plane on which hidden unit k switches, u the
    pre-activations and V [B, N, n] their Jacobian; e_ij = (z_y - z_j) / ||W_y - W_j||_q [B, K] is the signed distance
    from the decision plane between y and j, W [B, K, n] the Jacobian of the logits. S_i holds the n units nearest to
    x_i. n falls linearly from `units_start` to `units_end` of the N units; r rises linearly to 1.
    """

    info: ClassVar[Info] = Info(
        key="mmr",
        title="Maximum margin regularizer (linear regions)",
        family="certified",
        paper="Croce, Andriushchenko, Hein: Provable Robustness of ReLU Networks via Maximization of Linear Regions,"
        " AISTATS 2019, arXiv 1810.07481",
        section="3 and 4",
        year=2019,
        claims=("input_margin", "certified_radius"),
        needs=frozenset({"epsilon"}),
        neutral={"weight": 0.0},
        deviations=(
            "one gamma for both kinds of planes, by default twice the suite's epsilon, as in the authors' recipe for"
            " their CNN on MNIST in L-infinity; their code has one for each, 1 by default",
            "schedules are shares of the training: the paper's r rises over 10 of 100 epochs",
            "no noise against ties and no offset on small entries of V: a floor under the norms instead",
            "without adversarial training, which the paper adds in some of its experiments (MMR+AT)",
            "V is computed in full: n forward passes per image, except for units that see a small part of it",
            "batch norm in training is the affine map given by the statistics of the batch, the same for all"
            " images; layers that methods/maths/bounds/path.py does not know, such as max pooling, are refused",
        ),
    )

    norm: Norm = param("linf", "norm of the distances", unit="-", source="section 5", search=("linf", "l2"))
    weight: float = param(
        1.0, "factor of the regulariser", unit="1", source="authors' code", search=(0.1, 0.5, 1.0, 2.0), ge=0
    )
    gamma: float | None = param(
        None,
        "distance up to which planes are pushed away; none: twice the suite's epsilon",
        unit="pixels of [0, 1]",
        source="authors' code, MNIST: 0.2 where 0.1 is evaluated",
        search=(None,),
        gt=0,
    )
    units_start: float = param(
        0.1, "share of units in S at the start", unit="1", source="authors' code", search=(0.1, 0.2), gt=0, le=1
    )
    units_end: float = param(0.02, "share at the end", unit="1", source="authors' code", search=(0.02, 0.1), gt=0, le=1)
    ramp_end: float = param(
        0.1,
        "where r reaches 1",
        unit="share of training",
        source="authors' code: 10 of 100 epochs",
        search=(0.1, 0.5),
        ge=0,
        le=1,
    )

    def build(self, net: Net, task: Task) -> Net:
        path_of(net, task.input_shape)  # refuses layers for which no region is known
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        gamma = 2 * ctx.task.epsilon[self.norm] if self.gamma is None else self.gamma
        risk = cross_entropy(net(batch.x), batch)
        with torch.autocast(batch.x.device.type, enabled=False):
            region = region_of(net, batch.x)
            planes = (1 - decision_distances(region, batch.y, self.norm) / gamma).relu().mean()
            units = (1 - self._nearest(unit_distances(region, self.norm), ctx) / gamma).relu()
            penalty = planes + (units.mean() if units.numel() else 0)
        rise = ctx.schedule(lambda: ramp(ctx.progress, 0.0, self.ramp_end))
        parts = {"risk": risk.detach(), "penalty": penalty.detach()}
        return Loss(risk + self.weight * rise * penalty, parts)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return region_radii(net, x, norm)

    def _nearest(self, distances: Tensor, ctx: Context) -> Tensor:
        """[B, N] to [B, n]: the smallest."""
        total = distances.shape[1]
        count = ctx.stage(lambda: self._count(total, ctx.progress))
        return distances.topk(count, dim=1, largest=False)[0]

    def _count(self, total: int, progress: float) -> int:
        share = self.units_start + progress * (self.units_end - self.units_start)
        return min(max(round(share * total), 1), total)
