"""A-Softmax (SphereFace): the angle to the class weight is multiplied, and the class weights have unit norm."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    Method,
    Net,
    Task,
    as_float,
    class_mask,
    cross_entropy,
    param,
)
from marginbench.methods.maths.angles import UnitRowHead, multiply_angle, multiply_target_angle, unit_rows


class ASoftmax(Method):
    """L = CE(z), z_j = ||phi|| cos(theta_j) for j != y, logits z [B, K], and for the label

    z_y = ||phi|| (lambda cos(theta_y) + psi(theta_y)) / (1 + lambda),
    psi(theta) = (-1)^k cos(m theta) - 2k on [k pi / m, (k + 1) pi / m], k = 0 .. m - 1,

    theta_j the angle between the feature phi [d], which keeps its norm, and the class weight w_j [d], which does
    not; no bias. k is a constant in the backward pass. The network built has the head z = ||phi|| cos(theta).
    lambda(t) = max(lambda_min, lambda_start (1 + gamma t)^-power), t in [0, 1) the share of the training done.

    gradient=paper: that of the formula, d(||phi|| psi) / dphi = a w_y + b phi with psi as a function of
    c = cos(theta_y), a = psi'(c), b = (psi(c) - c psi'(c)) / ||phi||. gradient=code: (a w_y + b phi) / (a^2 + b^2)^0.5
    in its place, and no margin for the class weight, dz_y / dw_y = phi.
    """

    info: ClassVar[Info] = Info(
        key="a_softmax",
        title="A-Softmax (SphereFace)",
        family="output_margin",
        paper="Liu, Wen, Yu, Li, Raj, Song: SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017,"
        " arXiv 1704.08063",
        section="3.2, equation 7; annealing: appendix G, its constants: authors' code",
        year=2017,
        revision=2,
        claims=("feature_margin",),
        neutral={"m": 1},
        deviations=(
            "the gradient is that of the authors' layer, to which their m and lambda_min belong: the formula's own"
            " (gradient=paper) has up to m^2 times its pull on the feature and loses classes. ResNet-8, 5,000 CIFAR-10"
            " images of 16x16, 15 epochs, accuracy on 2,000 validation images: 44 % and 31 %, ce 48 %",
            "annealing counts the share of the training and reaches lambda_min half-way; the authors count iterations"
            " and reach it after 6 % of theirs (gamma=3360 here): 40 % on the validation images above",
            "lambda_min is 5, as in appendix G: psi never weighs more than 1/6. Equation 7 is lambda = 0",
            "the weights are normalised in the head, not rescaled after each step",
        ),
    )

    m: int = param(4, "factor on the angle", unit="1", source="sections 3.4 and 4.1", search=(1, 2, 3, 4), ge=1, le=8)
    lambda_start: float = param(1000.0, "lambda at the start", unit="1", source="authors' code", search=(1000.0,), ge=0)
    gamma: float = param(
        400.0,
        "growth over the whole training",
        unit="1",
        source="validation images of a CIFAR-10 subset, of 2 values (see deviations); authors' code: 3360",
        search=(100.0, 400.0, 3360.0),
        ge=0,
    )
    power: float = param(1.0, "power of the decay", unit="1", source="authors' code", search=(1.0,), ge=0)
    lambda_min: float = param(5.0, "smallest lambda", unit="1", source="appendix G", search=(0.0, 1.0, 5.0, 10.0), ge=0)

    gradient: Literal["paper", "code"] = param(
        "code",
        "gradient of the margin",
        unit="-",
        source="authors' code, the layer's backward pass",
        search=("paper", "code"),
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = UnitRowHead.replacing(net.head, 1.0)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, UnitRowHead)
        features = as_float(net.features(batch.x))
        with torch.autocast(features.device.type, enabled=False):
            lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
            share = ctx.schedule(lambda: 1 / (1 + self._lambda(ctx.progress)))
            plain = net.head(features)
            logits = multiply_target_angle(plain, lengths, batch.y, self.m, share)
            if self.gradient == "code":
                w = unit_rows(net.head.weight.detach())[batch.y]
                turn = _pull(features.detach(), w, self.m) - w
                # a function whose gradient is theirs; the value is the formula's
                slope = plain + share * class_mask(batch.y, plain.shape[1]) * (turn * features).sum(1, keepdim=True)
                logits = slope + (logits - slope).detach()
        return Loss(cross_entropy(logits, batch))

    def _lambda(self, progress: float) -> float:
        decayed: float = self.lambda_start * (1 + self.gamma * progress) ** -self.power
        return max(self.lambda_min, decayed)


def _pull(features: Tensor, w: Tensor, m: int) -> Tensor:
    """a w + b phi over (a^2 + b^2)^(1/2) for features phi [B, d] and unit class weights w [B, d]: [B, d]."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(1e-12)
    with torch.enable_grad():
        cosine = ((features * w).sum(1, keepdim=True) / lengths).requires_grad_()
        psi = multiply_angle(cosine, m)
        (a,) = torch.autograd.grad(psi.sum(), cosine)
    b = (psi.detach() - cosine.detach() * a) / lengths
    pull: Tensor = (a * w + b * features) / torch.hypot(a, b)
    return pull
