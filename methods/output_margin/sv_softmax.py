"""SV-Softmax and MV-Softmax: rivals that the target does not beat count for more."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, cross_entropy, param
from marginbench.methods.maths.angles import CosineHead, add_angle_monotone, share_beyond


class SVSoftmax(Method):
    """L = CE(z), z_y = s f(theta_y), z_j = s h_j for j != y, logits z [B, K].

    form=sv: f = cos(theta_y);  form=am: f = cos(theta_y) - m;  form=arc: f = cos(theta_y + m).
    h_j = cos(theta_j) where cos(theta_j) <= f(theta_y), and for the other rivals, the support vectors,
    emphasis=adaptive: h_j = t cos(theta_j) + t - 1;  emphasis=fixed: h_j = cos(theta_j) + t - 1.

    Features and class weights are normalised, no bias. Which rivals are emphasised is a constant in the backward
    pass. The network built has the head z = s cos(theta), without labels, margin or emphasis.
    """

    info: ClassVar[Info] = Info(
        key="sv_softmax",
        title="SV-Softmax (support vector guided softmax); with a margin: SV-X, or MV-Softmax",
        family="output_margin",
        paper="Wang, Wang, Zhang, Fu, Shi, Mei: Support Vector Guided Softmax Loss for Face Recognition, 2018,"
        " arXiv 1812.11317; fixed emphasis: Wang et al.: Mis-Classified Vector Guided Softmax Loss for Face"
        " Recognition, AAAI 2020, arXiv 1912.00833",
        section="3.2 (SV-Softmax) and 3.2.3 (SV-X-Softmax)",
        year=2018,
        claims=("feature_margin",),
        neutral={"form": "sv", "t": 1.0},
        deviations=(
            "t is that of the first paper; in the authors' code and in MV-Softmax it is smaller by 1",
            "with the margin applied to every example; the authors' code leaves it out where theta_y >= pi/2"
            " (easy_margin=true)",
            "form=arc: where theta_y + m > pi, f = cos(theta_y) - m sin(m), as in arcface; the authors' code rises"
            " there. Hard data end there (93 % of the training images of arcface's CIFAR-10 subset): the part `beyond`"
            " of the loss is their share",
        ),
        presets={"mv_am": {"form": "am"}, "mv_arc": {"form": "arc"}},
    )

    form: Literal["sv", "am", "arc"] = param(
        "sv", "loss whose rivals are emphasised", unit="-", source="section 3", search=("sv", "am", "arc")
    )
    emphasis: Literal["adaptive", "fixed"] = param(
        "adaptive",
        "how rivals are emphasised",
        unit="-",
        source="MV-Softmax, equations 7 and 8",
        search=("adaptive", "fixed"),
    )
    t: float = param(1.2, "strength of the emphasis", unit="1", source="authors' code", search=(1.1, 1.2, 1.4), ge=1)
    s: float = param(32.0, "scale of the logits", unit="1", source="authors' code", search=(8.0, 16.0, 32.0), gt=0)
    m: float | None = param(
        None,
        "margin; none: 0.35 for am, 0.5 for arc",
        unit="1 for am, rad for arc",
        source="authors' code for am, ArcFace for arc",
        search=(None, 0.1, 0.2),
        ge=0,
        le=1.5,
    )
    easy_margin: bool = param(
        False, "margin only where theta_y < pi/2", unit="-", source="authors' code: true", search=(False, True)
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = CosineHead.replacing(net.head, self.s)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, CosineHead)
        cosine = net.head.cosine(net.features(batch.x))
        label = cosine.gather(1, batch.y[:, None])
        target = self._target(label)
        harder = (self.t if self.emphasis == "adaptive" else 1) * cosine + self.t - 1
        rivals = torch.where(cosine > target, harder, cosine)
        if self.easy_margin:
            target = torch.where(label > 0, target, label)
        logits = self.s * rivals.scatter(1, batch.y[:, None], target)
        parts = {"beyond": share_beyond(label, self._margin)} if self.form == "arc" else {}
        return Loss(cross_entropy(logits, batch), parts)

    @property
    def _margin(self) -> float:
        if self.m is not None:
            return self.m
        return {"sv": 0.0, "am": 0.35, "arc": 0.5}[self.form]

    def _target(self, cosine: Tensor) -> Tensor:
        """cos(theta_y) to f(theta_y), [B, 1]."""
        if self.form == "am":
            return cosine - self._margin
        return add_angle_monotone(cosine, self._margin) if self.form == "arc" else cosine
