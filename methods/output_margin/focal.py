"""Focal loss: cross-entropy that counts well-classified examples less."""

from typing import ClassVar

import torch

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, param


class Focal(Method):
    """L = (1/B) sum_i -(1 - p_iy)^gamma log p_iy, with p = softmax(z) [B, K], y the label of example i."""

    info: ClassVar[Info] = Info(
        key="focal",
        title="Focal loss",
        family="output_margin",
        paper="Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002",
        section="3.2, equation 4",
        year=2017,
        claims=("accuracy",),
        neutral={"gamma": 0.0},
        deviations=(
            "softmax over the classes instead of one sigmoid per class, and the mean over examples instead of a sum"
            " over anchors: the paper is about detection",
            "no weight alpha per class (equation 5), which balances foreground against background",
        ),
    )

    gamma: float = param(
        2.0, "how fast an example loses weight", unit="1", source="section 3.2", search=(0.5, 1.0, 2.0, 5.0), ge=0
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        log_p = logits.log_softmax(1).gather(1, batch.y[:, None])
        tiny = torch.finfo(log_p.dtype).tiny  # 0^(gamma-1) in the gradient is infinite below gamma = 1
        weight = (-log_p.expm1()).clamp_min(tiny).pow(self.gamma)
        return Loss(-(weight * log_p).mean())
