"""Virtual Softmax: an additional class that always points along the feature."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, as_float, cross_entropy
from marginbench.methods.maths.angles import bias_free


class VirtualSoftmax(Method):
    """L = CE([z, v], y), logits z = phi W^T [B, K] without bias and the virtual logit v_i = ||w_y|| ||phi_i||, [B, 1].

    v is the logit of a virtual class weight ||w_y|| phi / ||phi||, one for each example: v >= z_y,
    so p_y <= 1/2 and L >= log 2. Its gradient flows into phi and w_y. The network built gives the K logits only.
    """

    info: ClassVar[Info] = Info(
        key="virtual_softmax",
        title="Virtual Softmax (virtual class enhanced discriminative embedding)",
        family="output_margin",
        paper="Chen, Deng, Shen: Virtual Class Enhanced Discriminative Embedding Learning, NeurIPS 2018,"
        " arXiv 1811.12611",
        section="3, equations 3 and 4",
        year=2018,
        claims=("feature_margin",),
        deviations=(
            "none; the paper has nothing to set. Where there is little time it lags: ResNet-8, 5,000 CIFAR-10 images of"
            " 16x16, 15 epochs: 39 % of 2,000 validation images right, ce 48 %",
        ),
        neutral="the virtual class takes at least half of the probability: no setting is cross-entropy",
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = bias_free(net.head)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, nn.Linear)
        features = as_float(net.features(batch.x))
        with torch.autocast(features.device.type, enabled=False):
            norms: Tensor = torch.linalg.vector_norm(net.head.weight, dim=1)
            virtual = norms[batch.y][:, None] * torch.linalg.vector_norm(features, dim=1, keepdim=True)
            logits = torch.cat([net.head(features), virtual], dim=1)
        return Loss(cross_entropy(logits, batch))
