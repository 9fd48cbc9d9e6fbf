"""Mixup: cross-entropy on convex combinations of two examples and of their labels."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Method, class_mask, param


class Mixup(Method):
    """L = -(1/B) sum_i sum_k t_ik log softmax(z(x'_i))_k, on the mixed batch

    x'_i = lam x_i + (1 - lam) x_p(i)    [B, C, H, W]
    t_i  = lam e_y(i) + (1 - lam) e_y(p(i))    [B, K]

    with lam ~ Beta(alpha, alpha) and a permutation p of the batch, both drawn once per step. As cross-entropy is
    linear in its target, L = lam CE(y) + (1 - lam) CE(y_p). alpha = 0 stands for its limit, lam in {0, 1}.
    """

    info: ClassVar[Info] = Info(
        key="mixup",
        title="Mixup",
        family="augmentation",
        paper="Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv"
        " 1710.09412",
        section="2, figure 1",
        year=2018,
        claims=("accuracy", "input_margin"),
        neutral={"alpha": 0.0},
        deviations=(
            "partners come from the same batch and lam is one number per batch, as in the authors' code; the paper's"
            " equations draw both for every pair",
        ),
    )

    alpha: float = param(
        1.0,
        "both parameters of the Beta distribution",
        unit="1",
        source="section 3.2",
        search=(0.1, 0.2, 0.4, 1.0),
        ge=0,
    )

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        if self.alpha == 0:
            return batch
        lam = _symmetric_beta(self.alpha, ctx.generator).to(batch.x.dtype)
        partner = torch.randperm(len(batch.x), generator=ctx.generator, device=ctx.device)
        target = class_mask(batch.y, ctx.task.num_classes).to(batch.x.dtype)
        return replace(
            batch,
            x=lam * batch.x + (1 - lam) * batch.x[partner],
            target=lam * target + (1 - lam) * target[partner],
        )


def _symmetric_beta(alpha: float, generator: torch.Generator) -> Tensor:
    """A draw of Beta(alpha, alpha), float64 scalar on the generator's device, without rejection.

    Bailey's polar method (1994): T = sqrt(2 alpha (u^(-1/alpha) - 1)) cos(2 pi v) follows Student's distribution
    with 2 alpha degrees of freedom, and (1 + T / sqrt(2 alpha + T^2)) / 2 the Beta distribution.
    """
    u, v = torch.rand(2, generator=generator, device=generator.device, dtype=torch.float64)
    power, cosine = u ** (1 / alpha), torch.cos(2 * math.pi * v)  # never exactly 0 in floating point
    share = cosine * torch.sqrt((1 - power) / (power + (1 - power) * cosine**2))
    return (1 + share) / 2
