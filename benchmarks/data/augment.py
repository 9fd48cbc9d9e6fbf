"""Augmentation by the recipe: the same random changes of the training images for every method.

A suite names the transforms in `training.augment`; they follow each other as in `Augment`. Each takes the batch as a
whole, on the device. Random numbers are drawn on the CPU: they are the same on every device, and where images are
grouped by what happens to them the device need not be waited for.
"""

import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.data.autoaugment import autoaugment
from marginbench.benchmarks.machine.upload import upload
from marginbench.methods.errors import suggest

TRIES = 10  # windows drawn for each random resized crop


class _Transform(BaseModel):
    """Images x [B, C, H, W] in [0, 1] to images; `fill` [C] is the colour of what has no pixel of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        raise NotImplementedError


class Crop(_Transform):
    """Pads each side and cuts out a window of the image's size, its place uniform (He et al., 2016, 4.2)."""

    padding: int = Field(default=4, gt=0)  # pixels
    mode: Literal["zero", "reflect"] = "zero"

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (self.padding,) * 4, "constant" if self.mode == "zero" else "reflect")
        top, left = upload(torch.randint(2 * self.padding + 1, (2, len(x)), generator=stream), x.device)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [B, C, 2p + 1, 2p + 1, H, W]
        return windows[torch.arange(len(x), device=x.device), :, top, left]


class RandomResizedCrop(_Transform):
    """Cuts out a window of random area, shape and place, and enlarges it to the image's size.

    Szegedy et al. (CVPR 2015, arXiv 1409.4842, section 6), drawn as by torchvision: the area is uniform, the ratio of
    width to height log-uniform. Of ten windows the first that fits is taken, else in the middle the largest one
    of an allowed ratio. Pixels are interpolated bilinearly. No window is larger than the image, so nothing is sampled
    more coarsely than before, and antialiasing would change nothing.
    """

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


class Flip(_Transform):
    """Mirrors left and right."""

    probability: float = Field(default=0.5, ge=0, le=1)

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        mirrored = torch.rand(len(x), generator=stream) < self.probability
        return torch.where(upload(mirrored, x.device)[:, None, None, None], x.flip(3), x)


class AutoAugment(_Transform):
    """One of the 25 sub-policies for each image (Cubuk et al., 2018, arXiv 1805.09501)."""

    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        return autoaugment(x, self.policy, fill, stream)


class Cutout(_Transform):
    """Fills a square whose centre is uniform over the pixels: near a border part of it falls outside.

    DeVries and Taylor, 2017, arXiv 1708.04552: 16 pixels for CIFAR-10, 8 for CIFAR-100, 20 for SVHN. They set the
    normalised image to 0, which is `fill` in pixels.
    """

    length: int = Field(default=16, gt=0)  # pixels

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        rows, columns = (upload(self._covered(len(x), pixels, stream), x.device) for pixels in x.shape[2:])
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], fill[:, None, None], x)

    def _covered(self, count: int, pixels: int, stream: torch.Generator) -> Tensor:
        centre = torch.randint(pixels, (count, 1), generator=stream)
        offset = torch.arange(pixels) - centre + self.length // 2
        return (offset >= 0) & (offset < self.length)


class Augment(_Transform):
    """The transforms of a suite, in the order in which they are applied: a list of names, or a table of settings."""

    crop: Crop | None = None
    random_resized_crop: RandomResizedCrop | None = None
    flip: Flip | None = None
    autoaugment: AutoAugment | None = None
    cutout: Cutout | None = None

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if value in ([], {}):
            raise ValueError(f"empty: {suggest('', cls.model_fields)}")
        if not isinstance(value, list):
            return value
        unknown = [str(name) for name in value if name not in cls.model_fields]
        if unknown:
            raise ValueError(f"unknown transform {unknown[0]!r}: {suggest(unknown[0], cls.model_fields)}")
        return {name: {} for name in value}

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for transform in (self.crop, self.random_resized_crop, self.flip, self.autoaugment, self.cutout):
                if transform is not None:
                    x = transform(x, fill, stream)
        return x
