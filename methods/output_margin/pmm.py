"""Pairwise Margin Maximization: the norm of the pairwise weight differences, scaled by the feature radius."""

from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    Method,
    Net,
    Task,
    as_float,
    cross_entropy,
    param,
)
from marginbench.methods.maths.layers import head_weight


class PMM(Method):
    """L = (1/B) sum_i C_i + alpha(e) R, on features phi [B, d], head weights W [K, d], logits z [B, K].

    form=paper: R = (1/B) sum_i ||w_y - w_m||^2 * max_i ||phi_i||^2, with y the label of example i and
                m = argmax_{j != y} z_ij its runner-up, which is never the label, even where i is misclassified.
    form=code:  R = (max_i ||phi_i|| * (1/B) sum_i ||w_y - w_m||)^2, which is at most the paper's, and alpha = 0
                during the first epoch.
    risk=ce:    C_i = -log softmax(z_i)[y];  risk=hinge: C_i = max(0, 1 - (z_iy - z_im)).

    alpha(e) = alpha_start + e (alpha_end - alpha_start) / E, in epoch e = 0 .. E-1. The gradient flows through W
    and through the features of the example with the largest norm.
    """

    info: ClassVar[Info] = Info(
        key="pmm",
        title="Pairwise Margin Maximization",
        family="output_margin",
        paper="Weinstein, Fine, Hel-Or: Pairwise Margin Maximization for Deep Neural Networks, 2021, arXiv 2110.04519",
        section="II, equation 7; III, equations 8 to 10; alpha in IV.A",
        year=2021,
        claims=("feature_margin", "accuracy"),
        neutral={"alpha_start": 0.0, "alpha_end": 0.0},
        deviations=(
            "risk and regulariser are means over the batch, as in the authors' code; the paper writes sums, which"
            " only scales the learning rate; alpha stays the same",
            "the last epoch has alpha(E-1), one increment short of alpha_end, as the authors' schedule does",
        ),
    )

    risk: Literal["ce", "hinge"] = param(
        "ce", "empirical risk", unit="-", source="equation 10; hinge: equation 9", search=("ce", "hinge")
    )
    form: Literal["paper", "code"] = param(
        "paper", "regulariser of equation 9, or of the authors' code", unit="-", source="equation 9", search=("paper",)
    )
    alpha_start: float = param(
        1e-5, "weight in the first epoch", unit="1", source="section IV.A", search=(1e-6, 1e-5, 1e-4), ge=0
    )
    alpha_end: float = param(
        1e-3, "weight after the last epoch", unit="1", source="section IV.A", search=(1e-4, 1e-3, 1e-2), ge=0
    )

    def build(self, net: Net, task: Task) -> Net:
        head_weight(net, "pmm")
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        features = net.features(batch.x)
        logits = net.head(features)
        label, values = batch.y[:, None], as_float(logits)
        with torch.no_grad():
            runner_up = values.scatter(1, label, -torch.inf).argmax(1, keepdim=True)
            largest = torch.linalg.vector_norm(as_float(features), dim=1).argmax(0, keepdim=True)
        if self.risk == "ce":
            risk = cross_entropy(logits, batch)
        else:
            risk = F.relu(1 - values.gather(1, label) + values.gather(1, runner_up)).mean()

        weight = head_weight(net, "pmm")
        with torch.autocast(weight.device.type, enabled=False):
            pair = weight.new_zeros(values.shape).scatter_(1, label, 1.0).scatter_(1, runner_up, -1.0)
            differences = pair @ weight  # w_y - w_m; its backward pass is cheaper than that of indexing
            radius2 = as_float(features.index_select(0, largest)).square().sum()
            if self.form == "paper":
                regulariser = radius2 * differences.square().sum() / len(pair)
            else:
                regulariser = radius2 * torch.linalg.vector_norm(differences, dim=1).mean().square()
        alpha = ctx.schedule(lambda: self._alpha(ctx))
        return Loss(risk + alpha * regulariser, {"risk": risk.detach(), "regulariser": regulariser.detach()})

    def _alpha(self, ctx: Context) -> float:
        if self.form == "code" and ctx.epoch == 0:
            return 0.0
        return self.alpha_start + ctx.epoch * (self.alpha_end - self.alpha_start) / ctx.epochs
