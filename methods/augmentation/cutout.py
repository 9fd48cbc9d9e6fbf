"""Cutout: cross-entropy on images from which a random square is cut out."""

from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, cross_entropy, param


class Cutout(Method):
    """L = CE(head(body(m * normalise(x)))), images x [B, C, H, W], mask m [B, 1, H, W] drawn for every image and step.

    m = 0 in a square of s x s pixels, s = round(length min(H, W)), whose centre is uniform over the pixels of the
    image: near a border part of the square falls outside. Elsewhere m = 1. After normalisation 0 is the mean
    pixel; the mask is therefore applied here and not in `augment`, which sees images in [0, 1].
    """

    info: ClassVar[Info] = Info(
        key="cutout",
        title="Cutout",
        family="augmentation",
        paper="DeVries, Taylor: Improved Regularization of Convolutional Neural Networks with Cutout, 2017, arXiv"
        " 1708.04552",
        section="3.2",
        year=2017,
        claims=("accuracy", "input_margin"),
        neutral={"length": 0.0},
        needs=frozenset({"pixels"}),
        deviations=(
            "the length is a share of the image: the paper's 16 pixels on CIFAR-10 are half of an image, 8 on CIFAR-100"
            " a quarter, 20 on SVHN five eighths",
            "a square of odd length has that length; the authors' code makes it one pixel shorter",
            "the paper cuts out after random crops and flips, which the suites do not have",
        ),
    )

    length: float = param(
        0.5,
        "side of the square",
        unit="share of the shorter side of the image",
        source="section 4.1, CIFAR-10: 16 of 32 pixels",
        search=(0.25, 0.5, 0.625),
        ge=0,
        le=2,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        kept = ~_squares(batch.x, self.length, ctx.generator)
        return Loss(cross_entropy(net.head(net.body(kept * net.normalise(batch.x))), batch))


def _squares(x: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """[B, 1, H, W] bool: the pixels to cut out of each image of x [B, C, H, W]."""
    height, width = x.shape[2:]
    side = round(length * min(height, width))

    def covered(pixels: int) -> Tensor:
        centre = torch.randint(pixels, (len(x), 1), generator=generator, device=generator.device)
        offset = torch.arange(pixels, device=generator.device) - centre + side // 2
        return (offset >= 0) & (offset < side)

    return (covered(height)[:, :, None] & covered(width)[:, None, :])[:, None]
