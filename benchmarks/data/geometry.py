"""Transforms that move pixels: crops and flips."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.data.transform import Transform, transform
from marginbench.benchmarks.machine.upload import upload

TRIES = 10  # windows drawn for each random resized crop


@transform("crop")
class Crop(Transform):
    """Pads each side and cuts out a window of the image's size, its place uniform (He et al., 2016, 4.2)."""

    place: ClassVar[int] = 10
    padding: int = Field(default=4, gt=0)  # pixels
    mode: Literal["zero", "reflect"] = "zero"

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (self.padding,) * 4, "constant" if self.mode == "zero" else "reflect")
        top, left = upload(torch.randint(2 * self.padding + 1, (2, len(x)), generator=stream), x.device)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [B, C, 2p + 1, 2p + 1, H, W]
        return windows[torch.arange(len(x), device=x.device), :, top, left]


@transform("random_resized_crop")
class RandomResizedCrop(Transform):
    """Cuts out a window of random area, shape and place, and enlarges it to the image's size.

    Szegedy et al. (CVPR 2015, arXiv 1409.4842, section 6), drawn as by torchvision: the area is uniform, the ratio of
    width to height log-uniform. Of ten windows the first that fits is taken; if none does, the largest one of an
    allowed ratio, in the middle. Pixels are interpolated bilinearly. No window is larger than the image, so nothing is
    sampled more coarsely than before, and antialiasing would change nothing.
    """

    place: ClassVar[int] = 20
    area: float = Field(default=0.08, gt=0, le=1)  # the least, as a share of the image's; the largest is 1
    ratio: float = Field(default=4 / 3, ge=1)  # width / height at most, and height / width

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        top, left, rows, columns = upload(self._windows(len(x), height, width, stream).float(), x.device)
        return _stretch(_stretch(x, 2, top, rows), 3, left, columns)

    def _windows(self, count: int, height: int, width: int, stream: torch.Generator) -> Tensor:
        """Top, left, height, width in pixels: [4, B] float64, whole numbers."""
        image = torch.tensor([height, width], dtype=torch.float64)[:, None]
        share, shape = torch.rand(2, TRIES, count, generator=stream, dtype=torch.float64)
        place = torch.rand(2, count, generator=stream, dtype=torch.float64)
        area = height * width * (self.area + (1 - self.area) * share)
        ratio = (math.log(self.ratio) * (2 * shape - 1)).exp()
        drawn = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()])  # [2, TRIES, B]
        fits = ((drawn > 0) & (drawn <= image[:, None])).all(0)
        first, found = fits.int().argmax(0), fits.any(0)
        largest = image.minimum((self.ratio * image.flip(0)).round())
        size = torch.where(found, drawn[:, first, torch.arange(count)], largest)
        room = image - size
        corner = torch.where(found, place * (room + 1), room / 2).floor()
        return torch.cat([corner, size])


def _stretch(x: Tensor, dim: int, start: Tensor, length: Tensor) -> Tensor:
    """The `length` [B] pixels from `start` [B] on, stretched to the size that x has in dimension `dim`."""
    count = x.shape[dim]
    shape = [len(x), 1, count, 1] if dim == 2 else [len(x), 1, 1, count]
    last = length[:, None] - 1
    source = (torch.arange(count, device=x.device) + 0.5) * (length / count)[:, None] - 0.5
    source = source.clamp_min(0).minimum(last)
    below = source.floor()
    pair = (below, (below + 1).minimum(last))
    low, high = (x.gather(dim, (start[:, None] + i).long().view(shape).expand_as(x)) for i in pair)
    return low.lerp(high, (source - below).view(shape))


@transform("flip")
class Flip(Transform):
    """Mirrors left and right."""

    place: ClassVar[int] = 30
    probability: float = Field(default=0.5, ge=0, le=1)

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        mirrored = torch.rand(len(x), generator=stream) < self.probability
        return torch.where(upload(mirrored, x.device)[:, None, None, None], x.flip(3), x)
