"""ArcFace: an additive margin on the angle between the feature and the weight of its class."""

from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, cross_entropy, param
from marginbench.methods.maths.angles import CosineHead, add_angle_monotone


class ArcFace(Method):
    """L = CE(z), z_j = s cos(theta_j) for j != y and z_y = s cos(theta_y + m), logits z [B, K].

    theta_j is the angle between the feature phi_i [d] and the class weight w_j [d]; both are normalised and there
    is no bias. Where theta_y + m > pi the target is s (cos(theta_y) - m sin(m)), which stays monotone in theta_y.
    The network built has the head z = s cos(theta), without labels and without margin.
    """

    info: ClassVar[Info] = Info(
        key="arcface",
        title="ArcFace (additive angular margin)",
        family="output_margin",
        paper="Deng, Guo, Xue, Zafeiriou: ArcFace: Additive Angular Margin Loss for Deep Face Recognition,"
        " CVPR 2019, arXiv 1801.07698",
        section="2.1, equation 3 (arXiv v4: 3.1)",
        year=2019,
        claims=("feature_margin",),
        neutral={"m": 0.0},
        deviations=(
            "the rule beyond theta + m > pi is from the authors' code; it steps by 1 - cos m - m sin m at pi - m",
        ),
    )

    s: float = param(
        64.0, "scale of the logits", unit="1", source="section 3.1, details", search=(8.0, 16.0, 30.0, 64.0), gt=0
    )
    m: float = param(
        0.5,
        "margin added to the angle",
        unit="rad",
        source="section 3.1, details",
        search=(0.1, 0.2, 0.35, 0.5),
        ge=0,
        le=1.5,
    )
    easy_margin: bool = param(
        False, "apply the margin only where theta_y < pi/2", unit="-", source="authors' code", search=(False, True)
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = CosineHead.replacing(net.head, self.s)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, CosineHead)
        cosine = net.head.cosine(net.features(batch.x))
        target = self._target(cosine.gather(1, batch.y[:, None]))
        return Loss(cross_entropy(self.s * cosine.scatter(1, batch.y[:, None], target), batch))

    def _target(self, cosine: Tensor) -> Tensor:
        """cos(theta_y) to cos(theta_y + m), with the rule beyond pi."""
        shifted = add_angle_monotone(cosine, self.m)
        return torch.where(cosine > 0, shifted, cosine) if self.easy_margin else shifted
