"""Mean and standard deviation of the training pixels, with which networks normalise their input."""

import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Split

STATISTICS = 100_000  # images that count


def pixel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel [C] of the images in [0, 1], of the first 100,000 if there are more.

    Computed on the CPU in integers, or in float64 where the images are float32: the same wherever the images are.
    Sentences have none: 0 and 1.
    """
    channels = split.x.shape[1]
    if split.is_text:
        return torch.zeros(channels), torch.ones(channels)
    if split.x.is_floating_point():
        return _float_statistics(split.x[:STATISTICS])
    counts = torch.zeros(channels, 256, dtype=torch.int64)  # how often each level occurs
    for part in split.x[:STATISTICS].split(1000):
        for channel, pixels in enumerate(part.cpu().unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    levels, total = torch.arange(256, dtype=torch.float64) / split.levels, counts.sum(1, keepdim=True)
    mean = (counts * levels).sum(1, keepdim=True) / total
    std = ((counts * (levels - mean) ** 2).sum(1) / (total[:, 0] - 1)).sqrt()
    return mean[:, 0].float(), std.clamp_min(1e-3).float()


def _float_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of images [N, C, H, W] float32, in two passes."""
    parts, each = x.split(1000), len(x) * x.shape[2] * x.shape[3]
    mean = sum(part.cpu().double().sum((0, 2, 3)) for part in parts) / each
    square = sum(((part.cpu().double() - mean[:, None, None]) ** 2).sum((0, 2, 3)) for part in parts)
    return mean.float(), (square / (each - 1)).sqrt().clamp_min(1e-3).float()
