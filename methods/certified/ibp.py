"""Interval bound propagation: cross-entropy of the worst logits that intervals allow."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

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
)
from marginbench.methods.maths.bounds.linear import Ball, Path, interval_bounds, interval_margins
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.search import certified_radii
from marginbench.methods.maths.bounds.training import ball_of, radius_param, ramp, share_param


class IBP(Method):
    """L = kappa CE(z) + (1 - kappa) CE(-m), logits z [B, K], m [B, K] lower bounds of z_y - z_j, 0 for j = y.

    The images within eps of x in L-infinity, and in [0, 1], form a box; a box of centre c and radius r becomes the
    box W c + b, |W| r behind an affine layer, and a ReLU acts on both ends. The last layer is merged with the
    specification: m_j = (w_y - w_j) c + b_y - b_j - |w_y - w_j| r with features c, r [B, d] and rows w [K, d].

    eps rises linearly from 0 to `epsilon`, and kappa falls linearly from 1 to `kappa_end`, between `ramp_start` and
    `ramp_end`, shares of the training.
    """

    info: ClassVar[Info] = Info(
        key="ibp",
        title="Interval bound propagation",
        family="certified",
        paper="Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli: On the Effectiveness of"
        " Interval Bound Propagation for Training Verifiably Robust Models, 2018, arXiv 1810.12715",
        section="3",
        year=2018,
        claims=("input_margin", "certified_radius"),
        needs=frozenset({"epsilon"}),
        neutral={"epsilon": 0.0},
        deviations=(
            "epsilon defaults to the suite's; the paper trains at somewhat larger radii than it evaluates",
            "the ramp is a share of the training, longer than the authors', which ends at 0.2: a short one"
            " suits their 100 to 350 epochs",
            "clean accuracy is given away: intervals are loose, and the weights that keep them narrow fit less",
            "batch norm in training has the statistics of the clean batch, through which gradients flow; layers that"
            " methods/maths/bounds/path.py does not know, such as max pooling, are refused",
        ),
    )

    epsilon: float | None = radius_param()
    kappa_end: float = share_param(0.5, "share of the clean loss at the end", "section 4", 0.0, 0.5, unit="1")
    ramp_start: float = share_param(0.05, "where the ramp starts", "chosen near the authors' code: 0.033", 0.05)
    ramp_end: float = share_param(
        0.6, "where it ends", "chosen: the authors' 0.2 is for longer training", 0.3, 0.6, 0.8
    )

    def build(self, net: Net, task: Task) -> Net:
        path_of(net, task.input_shape)  # refuses layers without bounds
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        share = ctx.schedule(lambda: ramp(ctx.progress, self.ramp_start, self.ramp_end))
        kappa = 1 - share * (1 - self.kappa_end)
        clean = cross_entropy(net(batch.x), batch)
        with torch.autocast(batch.x.device.type, enabled=False):
            ball = ball_of(batch, share, self.epsilon, "linf", ctx.task)
            lower = _margins(path_of(net, ctx.task.input_shape, clean=batch.x), ball, *specification(net, batch.y))
            robust = F.cross_entropy(-lower, batch.y)
        parts = {"clean": clean.detach(), "robust": robust.detach()}
        return Loss(kappa * clean + (1 - kappa) * robust, parts)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return certified_radii(net, x, norm, _margins) if norm == "linf" else NotApplicable("intervals are for linf")


def _margins(path: Path, ball: Ball, rows: Tensor, constants: Tensor) -> Tensor:
    return interval_margins(interval_bounds(path, ball.box())[1], rows, constants)
