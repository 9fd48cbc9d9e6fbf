"""Cutout."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from marginbench.benchmarks.data.transform import Transform, transform
from marginbench.benchmarks.machine.upload import upload


@transform("cutout")
class Cutout(Transform):
    """Fills a square whose centre is uniform over the pixels: near a border part of it falls outside.

    DeVries and Taylor, 2017, arXiv 1708.04552: 16 pixels for CIFAR-10, 8 for CIFAR-100, 20 for SVHN. They set the
    normalised image to 0, which is `fill` in pixels.
    """

    place: ClassVar[int] = 50
    length: int = Field(default=16, gt=0)  # pixels

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        rows, columns = (upload(self._covered(len(x), pixels, stream), x.device) for pixels in x.shape[2:])
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], fill[:, None, None], x)

    def _covered(self, count: int, pixels: int, stream: torch.Generator) -> Tensor:
        centre = torch.randint(pixels, (count, 1), generator=stream)
        offset = torch.arange(pixels) - centre + self.length // 2
        return (offset >= 0) & (offset < self.length)
