"""Minnorm training: the smallest weights that fit every example with margin 1, by Lagrange multipliers."""

from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, logit_margin, param


class Minnorm(Method):
    """L = (1/B) sum_i lambda_i g_i + (decay/2) sum_l ||W_l||_F^2, g_i = 1 - (z_iy - max_{j != y} z_ij), z [B, K].

    The Lagrangian of: least sum of squared weights subject to g_i <= 0 for every training example. Each time example i
    is seen its multiplier follows, lambda_i <- min(max(lambda_i + rate g_i, 0), limit), before the weights' step; it
    integrates the error, grows while the margin is below 1 and vanishes for examples that stay beyond.
    """

    info: ClassVar[Info] = Info(
        key="minnorm",
        title="Minnorm training",
        family="lipschitz",
        paper="Bansal, Advani, Cox, Saxe: Minnorm training: an algorithm for training over-parameterized deep neural"
        " networks, 2018, arXiv 1806.00730",
        section="the Lagrangian and its updates",
        year=2018,
        claims=("feature_margin",),
        neutral="the multipliers replace cross-entropy: no setting gives it back",
        needs=frozenset({"index"}),
        deviations=(
            "the form of the constraint, the multi-class margin of the logits, follows secondary sources",
            "the Lagrangian is divided by the number of examples: decay is 1/N of a multiplier's natural scale",
            "the multipliers are limited: those of examples that cannot be fitted would grow without bound",
            "the benchmark's optimiser steps the weights; the norms of matrices and kernels count, those of biases"
            " do not",
        ),
    )

    rate: float = param(
        1.0,
        "step of the multipliers",
        unit="1",
        source="validation images of the digits, 3 values, 2 seeds, commit 2952381: best accuracy and margin",
        search=(0.1, 0.3, 1.0),
        gt=0,
    )
    decay: float = param(
        1e-3,
        "factor of the squared weights",
        unit="1",
        source="about 1/N on the digits; on their validation images best of 3 values, 2 seeds, commit 2952381",
        search=(1e-4, 1e-3),
        ge=0,
    )
    limit: float = param(
        3.0,
        "largest multiplier",
        unit="1",
        source="validation images of the digits, 3 values from 1 to 10, 1 or 2 seeds, commit 2952381: largest margin;"
        " the paper has no limit",
        search=(1.0, 3.0, 10.0),
        gt=0,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        shortfall = 1 - logit_margin(logits, batch.y)

        table = ctx.table("multiplier", 0.0)
        multiplier = (table[batch.index] + self.rate * shortfall.detach()).clamp(0, self.limit)
        table[batch.index] = multiplier.to(table.dtype)
        fit = (multiplier * shortfall).mean()
        norm = _squared_weights(net)
        parts = {"fit": fit.detach(), "norm": norm.detach(), "multiplier": multiplier.mean()}
        return Loss(fit + self.decay / 2 * norm, parts)


def _squared_weights(net: Net) -> Tensor:
    """Sum of the squared entries of all matrices and kernels."""
    return torch.stack([p.square().sum() for p in net.parameters() if p.dim() > 1]).sum()
