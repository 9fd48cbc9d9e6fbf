"""AM-Softmax and CosFace: an additive margin on the cosine between the feature and the weight of its class."""

from typing import ClassVar

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, cross_entropy, param
from marginbench.methods.maths.angles import CosineHead, subtract_target


class AMSoftmax(Method):
    """L = CE(z), z_j = s cos(theta_j) for j != y and z_y = s (cos(theta_y) - m), logits z [B, K].

    theta_j is the angle between the feature phi_i [d] and the class weight w_j [d]; both are normalised and there
    is no bias. The network built has the head z = s cos(theta), without labels and without margin.
    """

    info: ClassVar[Info] = Info(
        key="am_softmax",
        title="AM-Softmax (additive margin softmax); CosFace (large margin cosine loss) with its scale",
        family="output_margin",
        paper="Wang, Cheng, Liu, Liu: Additive Margin Softmax for Face Verification, IEEE SPL 2018, arXiv 1801.05599;"
        " the same loss: Wang et al.: CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018,"
        " arXiv 1801.09414",
        section="II; CosFace: 3.1, equation 4",
        year=2018,
        claims=("feature_margin",),
        neutral={"m": 0.0},
        presets={"cosface": {"s": 64.0}},
    )

    s: float = param(
        30.0, "scale of the logits", unit="1", source="authors' code", search=(8.0, 16.0, 30.0, 64.0), gt=0
    )
    m: float = param(
        0.35,
        "margin taken from the cosine",
        unit="1",
        source="authors' code; CosFace: section 4, with s = 64",
        search=(0.1, 0.2, 0.35, 0.5),
        ge=0,
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = CosineHead.replacing(net.head, self.s)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, CosineHead)
        cosine = net.head.cosine(net.features(batch.x))
        return Loss(cross_entropy(self.s * subtract_target(cosine, batch.y, self.m), batch))
