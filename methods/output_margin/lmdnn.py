"""Large margin deep networks of Sun et al.: squared penalties on the margin of the probabilities."""

from typing import ClassVar, Literal

import torch

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, cross_entropy, param


class LMDNN(Method):
    """L = CE(z) + weight (1/B) sum_i P_i, with probabilities p = softmax(z) [B, K], label y of example i.

    form=C1: P_i = (1 - (p_iy - max_{j != y} p_ij))^2.
    form=C2: P_i = 1/(K-1) sum_{j != y} (1 - (p_iy - p_ij))^2.
    """

    info: ClassVar[Info] = Info(
        key="lmdnn",
        title="Large margin deep networks (penalty on the margin of the probabilities)",
        family="output_margin",
        paper="Sun, Chen, Wang, Liu, Liu: On the Depth of Deep Neural Networks: A Theoretical View, AAAI 2016,"
        " arXiv 1506.05232",
        section="Large Margin Deep Neural Networks, C1 and C2",
        year=2016,
        claims=("feature_margin",),
        neutral={"weight": 0.0},
    )

    form: Literal["C1", "C2"] = param(
        "C1",
        "margin to the runner-up, or to every rival",
        unit="-",
        source="the paper's C1 and C2",
        search=("C1", "C2"),
    )
    weight: float = param(
        1.0,
        "factor of the penalty",
        unit="1",
        source="the middle of 4 values within 1 point on validation images of the digits, 2 seeds, commit 2952381",
        search=(0.1, 0.3, 1.0, 3.0),
        ge=0,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        risk = cross_entropy(logits, batch)
        label, probability = batch.y[:, None], logits.softmax(1)
        gaps = 1 - probability.gather(1, label) + probability  # [B, K], 1 in the column of the label
        if self.form == "C1":
            penalty = gaps.scatter(1, label, -torch.inf).amax(1).square().mean()
        else:
            rivals = gaps.shape[1] - 1
            penalty = gaps.scatter(1, label, 0.0).square().sum(1).mean() / rivals
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})
