"""The convex outer polytope of Wong and Kolter: cross-entropy of dual bounds on the logit differences."""

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
    param,
)
from marginbench.methods.maths.bounds.linear import linear_margins
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.rows import parallel_margins
from marginbench.methods.maths.bounds.search import certified_radii
from marginbench.methods.maths.bounds.sketch import estimated_bounds, is_wide
from marginbench.methods.maths.bounds.training import ball_of, radius_param, ramp, share_param


class ConvexPolytope(Method):
    """L = CE(-J), J [B, K] lower bounds of z_y - z_j over the ball of radius eps around x, 0 for j = y.

    J_j is the value of a feasible point of the dual of the linear programme in which every ReLU with bounds l < 0 < u
    is replaced by its convex hull: nu = w_y - w_j is pulled back through the layers, nu <- D W^T nu with
    D = u / (u - l) at such ReLUs (1 at active and 0 at dead ones), and
    J_j = nu_0 x - eps ||nu_0||_q + sum_k nu_k b_k - sum_{such ReLUs} l min(nu, 0) u / (u - l), with nu as it is
    before the factor D. l and u [B, m] come from the same bound, layer after layer.

    eps rises linearly from `start` times `epsilon` at the first step to `epsilon` at `ramp_end`.
    """

    info: ClassVar[Info] = Info(
        key="convex_polytope",
        title="Convex outer adversarial polytope",
        family="certified",
        paper="Wong, Kolter: Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope,"
        " ICML 2018, arXiv 1711.00851; L2: Wong, Schmidt, Metzen, Kolter, NeurIPS 2018, arXiv 1805.12514",
        section="3, theorem 1 and algorithm 1",
        year=2018,
        claims=("input_margin", "certified_radius"),
        needs=frozenset({"epsilon"}),
        neutral={"epsilon": 0.0},
        deviations=(
            "bounds are exact as long as pixels times hidden units are below 50 million; above, those of the hidden"
            " units are estimated by 50 random projections in training, as in the second paper, and there is no"
            " certificate of its own",
            "in L-infinity the ball is cut to [0, 1], an option in the authors' code",
            "epsilon defaults to the suite's, in pixels; its ramp is a share of the training",
            "15 to 30 times the cost of cross-entropy on the digits, most of it in the bounds of the hidden units",
            "batch norm in training has the statistics of the clean batch, as in the authors' code, and gradients flow"
            " through them; layers that methods/maths/bounds/path.py does not know, such as max pooling, are refused",
            "the cost of exact bounds grows with the square of the depth: every layer's units are traced back to the"
            " pixels. A ResNet-20 of width 4 on 8x8 pixels takes 30 times as long as with intervals",
        ),
    )

    norm: Norm = param(
        "linf", "norm of the ball", unit="-", source="section 3; l2: second paper", search=("linf", "l2")
    )
    epsilon: float | None = radius_param("section 4: the radius evaluated")
    start: float = share_param(0.1, "share of epsilon at the first step", "authors' code: 0.01 of 0.1", 0.1, unit="1")
    ramp_end: float = share_param(0.5, "where the ramp ends", "authors' code: 10 of 20 epochs", 0.5, 0.8)

    def build(self, net: Net, task: Task) -> Net:
        path_of(net, task.input_shape)  # refuses layers without bounds
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        share = self.start + (1 - self.start) * ctx.schedule(lambda: ramp(ctx.progress, 0.0, self.ramp_end))
        with torch.no_grad():  # the pass is for the log, and for the running statistics of batch norm
            clean = cross_entropy(net(batch.x), batch)
        with torch.autocast(batch.x.device.type, enabled=False):
            ball = ball_of(batch, share, self.epsilon, self.norm, ctx.task)
            path = path_of(net, ctx.task.input_shape, clean=batch.x)
            problem = ball, *specification(net, batch.y)
            if is_wide(path, batch.x[0].numel()):
                lower = linear_margins(path, estimated_bounds(path, ball, ctx.generator), *problem)
            else:
                lower = parallel_margins(path, *problem)
            return Loss(F.cross_entropy(-lower, batch.y), {"clean": clean, "margin": lower.detach().mean()})

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return certified_radii(net, x, norm, parallel_margins, all_rows=True)
