"""CROWN-IBP: intervals for the hidden layers, linear bounds pulled back from the specification to the image."""

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
from marginbench.methods.maths.bounds.linear import (
    Ball,
    Path,
    adaptive,
    interval_bounds,
    interval_margins,
    linear_margins,
)
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.search import certified_radii
from marginbench.methods.maths.bounds.training import ball_of, radius_param, ramp, share_param


class CrownIBP(Method):
    """L = kappa CE(z) + (1 - kappa) CE(-m), m = beta m_crown + (1 - beta) m_ibp [B, K], logits z [B, K].

    Both are lower bounds of z_y - z_j, 0 for j = y, over the images of [0, 1] within eps of x in L-infinity. m_ibp
    is that of interval bound propagation. m_crown takes the intervals of the pre-activations, replaces every ReLU
    by two lines (above: the chord; below: slope 1 where u > -l, else 0), and pulls the rows w_y - w_j back through
    all layers to one linear function of the image per class, whose least value over the ball is known.

    eps rises linearly from 0 to `epsilon`, beta falls from 1 to `beta_end` and kappa from 1 to `kappa_end`, between
    `ramp_start` and `ramp_end`, shares of the training.
    """

    info: ClassVar[Info] = Info(
        key="crown_ibp",
        title="CROWN-IBP",
        family="certified",
        paper="Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh: Towards Stable and Efficient Training of"
        " Verifiably Robust Neural Networks, ICLR 2020, arXiv 1906.06316",
        section="3.2",
        year=2020,
        claims=("input_margin", "certified_radius"),
        needs=frozenset({"epsilon"}),
        neutral={"epsilon": 0.0},
        presets={"crown_ibp_linear": {"beta_end": 1.0}},
        deviations=(
            "epsilon defaults to the suite's; schedules are linear in the share of the training, between the authors'"
            " for small and large models (10 of 200 epochs to 0.66; 0.1 to 0.6, smoothed)",
            "gradients flow through the slopes of the lines, and through both bounds at every beta",
            "clean accuracy is given away: at the end the bound is that of intervals, which is loose. The"
            " preset crown_ibp_linear keeps the linear bounds to the end and gives away less on the digits",
            "batch norm in training has the statistics of the clean batch, through which gradients flow; layers that"
            " methods/maths/bounds/path.py does not know, such as max pooling, are refused",
        ),
    )

    epsilon: float | None = radius_param()
    beta_end: float = share_param(0.0, "weight of the linear bounds at the end", "section 4", 0.0, 1.0, unit="1")
    kappa_end: float = share_param(0.0, "share of the clean loss at the end", "section 4", 0.0, 0.5, unit="1")
    ramp_start: float = share_param(0.05, "where the ramps start", "authors' code, CIFAR-10", 0.05)
    ramp_end: float = share_param(0.6, "where they end", "authors' code, large models", 0.3, 0.6, 0.8)

    def build(self, net: Net, task: Task) -> Net:
        path_of(net, task.input_shape)  # refuses layers without bounds
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        share = ctx.schedule(lambda: self._share(ctx.progress))
        linear = ctx.stage(lambda: self._share(ctx.progress) * (1 - self.beta_end) < 1)
        kappa, beta = 1 - share * (1 - self.kappa_end), 1 - share * (1 - self.beta_end)
        clean = cross_entropy(net(batch.x), batch)
        with torch.autocast(batch.x.device.type, enabled=False):
            ball = ball_of(batch, share, self.epsilon, "linf", ctx.task)
            problem = path_of(net, ctx.task.input_shape, clean=batch.x), ball, *specification(net, batch.y)
            ibp, crown = _bounds(*problem, linear=linear)
            robust = F.cross_entropy(-(beta * crown + (1 - beta) * ibp), batch.y)
        parts = {"clean": clean.detach(), "robust": robust.detach()}
        return Loss(kappa * clean + (1 - kappa) * robust, parts)

    def _share(self, progress: float) -> float:
        return ramp(progress, self.ramp_start, self.ramp_end)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return certified_radii(net, x, norm, lambda *problem: torch.maximum(*_bounds(*problem)))


def _bounds(path: Path, ball: Ball, rows: Tensor, constants: Tensor, linear: bool = True) -> tuple[Tensor, Tensor]:
    """Lower bounds [B, K] of the specification by intervals, and by lines on top of them, or by intervals again."""
    before, features = interval_bounds(path, ball.box())
    ibp = interval_margins(features, rows, constants)
    if not linear:
        return ibp, ibp
    return ibp, linear_margins(path, [adaptive(bounds) for bounds in before], ball, rows, constants)
