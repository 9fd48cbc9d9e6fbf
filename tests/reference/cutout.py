"""Cutout with given centres, pixel by pixel."""

from collections.abc import Sequence

from torch import Tensor


def cut(x: Tensor, centres: Sequence[tuple[int, int]], side: int, mean: Tensor) -> Tensor:
    """Images of which a square around its centre (row, column) is filled with the mean pixel of each channel."""
    x = x.clone()
    for image, (row, column) in zip(x, centres, strict=True):
        for i in range(row - side // 2, row - side // 2 + side):
            for j in range(column - side // 2, column - side // 2 + side):
                if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                    for channel, value in zip(image, mean, strict=True):
                        channel[i, j] = value
    return x
