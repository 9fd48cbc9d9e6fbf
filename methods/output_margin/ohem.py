"""Online hard example mining: only the examples of a batch with the largest losses count."""

import math
from typing import ClassVar

from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, param


class OHEM(Method):
    """L = (1/n) sum over the n largest of l_1 .. l_B, l_i = -log softmax(z_i)[y_i], n = ceil(share B), z [B, K]."""

    info: ClassVar[Info] = Info(
        key="ohem",
        title="Online hard example mining",
        family="output_margin",
        paper="Shrivastava, Gupta, Girshick: Training Region-based Object Detectors with Online Hard Example Mining,"
        " CVPR 2016, arXiv 1604.03540",
        section="4",
        year=2016,
        revision=2,
        claims=("accuracy",),
        neutral={"share": 1.0},
        deviations=(
            "images of the batch take the place of an image's regions; the paper keeps 128 of about 4,000 regions,"
            " a share that would leave 2 images of a batch of 64. Where most images are hard it must be large:"
            " ResNet-8, 5,000 CIFAR-10 images of 16x16, 8 epochs, accuracy on 2,000 validation images: 25 % with 0.25,"
            " 34 % with 0.5, 39 % with 0.75, ce 42 %",
            "nothing corresponds to the suppression of overlapping regions",
            "one pass over the batch, whose easy part gets no gradient; the paper passes the hard part again",
        ),
    )

    share: float = param(
        0.75,
        "share of the batch that counts",
        unit="1",
        source="validation images of a CIFAR-10 subset, of 3 values (see deviations)",
        search=(0.1, 0.25, 0.5, 0.75),
        gt=0,
        le=1,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        losses = F.cross_entropy(as_float(net(batch.x)), batch.y, reduction="none")
        hardest = losses.topk(math.ceil(self.share * len(losses)), sorted=False).values
        return Loss(hardest.mean(), {"easy_and_hard": losses.detach().mean()})
