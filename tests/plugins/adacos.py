"""AdaCos: softmax of cosines whose scale follows the training."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, as_float, class_mask, cross_entropy


class AdaCos(Method):
    """L = CE(s cos, y), cos_ij the cosine of feature i and class weight j [B, K], s adapted in every step.

    s = log(A) / cos(min(pi/4, median_i theta_iy)), A = (1/B) sum_i sum_{j != y} exp(s' cos_ij) with the s' of the step
    before; s = sqrt(2) log(K - 1) at first.
    """

    info: ClassVar[Info] = Info(
        key="adacos",
        title="AdaCos",
        family="output_margin",
        paper="Zhang, Zhao, Qiao, Wang, Li: AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face"
        " Representations, CVPR 2019, arXiv 1905.00292",
        section="3.3, equations 13 to 15",
        year=2019,
        claims=("feature_margin",),
        neutral="the logits are cosines",
    )

    def build(self, net: Net, task: Task) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Cosine(net.head)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        head = net.head
        assert isinstance(head, Cosine)
        cosines = head.cosines(net.features(batch.x))
        with torch.no_grad():
            _adapt(head.scale, as_float(cosines), batch.y)
        return Loss(cross_entropy(head.scale * cosines, batch))


class Cosine(nn.Module):
    """s cos(phi, w_j) of features phi [B, d]: [B, K]."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.register_buffer("scale", torch.tensor(math.sqrt(2) * math.log(linear.out_features - 1)))

    def cosines(self, phi: Tensor) -> Tensor:
        return F.linear(F.normalize(phi), F.normalize(self.weight))

    def forward(self, phi: Tensor) -> Tensor:
        return self.scale * self.cosines(phi)


def _adapt(scale: Tensor, cosines: Tensor, y: Tensor) -> None:
    """The next scale, in place."""
    own = class_mask(y, cosines.shape[1])
    rivals = (scale * cosines).exp().masked_fill(own, 0).sum(1).mean()
    angle = cosines.gather(1, y[:, None]).clamp(-1, 1).acos().median()
    scale.copy_(rivals.log() / angle.clamp_max(math.pi / 4).cos())
