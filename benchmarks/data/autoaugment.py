"""AutoAugment for a whole batch: each image gets a sub-policy of its own.

A sub-policy is two operations, each with a probability and a magnitude. Policies and magnitudes are those of
torchvision's `AutoAugment`, which gives all images of a batch the same sub-policy. Here the images are grouped by
operation, in at most ten groups for each of the two places, and rounded to 256 levels, which the operations need.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.data.transform import Transform, transform
from marginbench.benchmarks.machine.upload import upload

Values = Tensor  # [B, 6]: rows of a 2x3 matrix, or a magnitude in the first column
AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")  # one group, with a matrix per image
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue


@transform("autoaugment")
class AutoAugment(Transform):
    """One of the 25 sub-policies for each image (Cubuk et al., 2018, arXiv 1805.09501)."""

    place: ClassVar[int] = 40
    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        return autoaugment(x, self.policy, fill, stream)


def autoaugment(x: Tensor, policy: str, fill: Tensor, stream: torch.Generator) -> Tensor:
    """Apply one sub-policy to each image.

    Args:
        x: images [B, C, H, W] in [0, 1].
        policy: cifar10, imagenet or svhn.
        fill: colour [C] of the pixels that come from outside the image.
        stream: a generator on the CPU.
    """
    kinds, probabilities, values = _table(policy, *x.shape[2:])
    chosen = torch.randint(len(kinds), (len(x),), generator=stream)
    applied = torch.rand(len(x), 2, generator=stream) < probabilities[chosen]
    signs = torch.randint(2, (len(x), 2), generator=stream)
    pixels, colour = (x * 255).round().to(torch.uint8), (fill * 255).round()[:, None, None]
    for place in range(2):
        for kind, operation in enumerate(OPERATIONS.values()):
            rows = ((kinds[chosen, place] == kind) & applied[:, place]).nonzero()[:, 0]
            if len(rows):
                settings = upload(values[chosen[rows], place, signs[rows, place]], x.device)
                rows = upload(rows, x.device)
                pixels[rows] = operation(pixels[rows], settings, colour)
    return pixels / 255


@cache
def _table(policy: str, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position in OPERATIONS [25, 2], probability [25, 2] and values [25, 2, 2, 6], for both signs."""
    from torchvision import transforms

    policies = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
    names = list(OPERATIONS)
    kinds = [[names.index("Affine" if name in AFFINE else name) for name, _, _ in pair] for pair in policies]
    probabilities = [[probability for _, probability, _ in pair] for pair in policies]
    values = [
        [[_values(name, (level or 0) / 9, sign, height, width) for sign in (-1, 1)] for name, _, level in pair]
        for pair in policies
    ]
    return torch.tensor(kinds), torch.tensor(probabilities), torch.tensor(values)


def _values(name: str, level: float, sign: int, height: int, width: int) -> list[float]:
    """Magnitude at a level in [0, 1]; for AFFINE the map from a pixel to its source, both relative to the centre."""
    shear, angle = sign * 0.3 * level, math.radians(sign * 30 * level)
    across, down = (sign * int(150 / 331 * pixels * level) for pixels in (width, height))
    cos, sin = math.cos(angle), math.sin(angle)
    table: dict[str, list[float]] = {
        "ShearX": [1, shear, shear * height / 2, 0, 1, 0],  # the first row stays
        "ShearY": [1, 0, 0, shear, 1, shear * width / 2],
        "TranslateX": [1, 0, -across, 0, 1, 0],
        "TranslateY": [1, 0, 0, 0, 1, -down],
        "Rotate": [cos, -sin, 0, sin, cos, 0],
        "Posterize": [2.0 ** round(4 * level)],  # levels that remain: its multiples
        "Solarize": [255 * (1 - level)],
    }
    values = table.get(name, [1 + sign * 0.9 * level])
    return [*values, *[0.0] * (6 - len(values))]


def _affine(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    height, width = x.shape[2:]
    across, down = (torch.arange(n, device=x.device) - (n - 1) / 2 for n in (width, height))
    a, b, c, d, e, f = (column[:, None, None] for column in values.unbind(1))
    source = (a * across + b * down[:, None] + c) / (width / 2), (d * across + e * down[:, None] + f) / (height / 2)
    grid = torch.stack(source, -1)
    moved: Tensor = F.grid_sample(x - colour, grid, "nearest", "zeros", align_corners=False)
    return (moved + colour).to(torch.uint8)


def _blend(x: Tensor, other: Tensor | float, values: Values) -> Tensor:
    share = values[:, 0, None, None, None]
    return (share * x + (1 - share) * other).clamp(0, 255).to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.float().mean(1, keepdim=True).floor()
    red, green, blue = x.split(1, 1)
    grey: Tensor = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return grey.floor()


def _colour(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    return _blend(x, _grey(x), values) if x.shape[1] == 3 else x


def _sharpness(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    """The border is left as it is."""
    blurred = x.float()
    inner = (9 * F.avg_pool2d(blurred, 3, 1) + 4 * blurred[:, :, 1:-1, 1:-1]) / 13
    blurred[:, :, 1:-1, 1:-1] = inner.round()
    return _blend(x, blurred, values)


def _auto_contrast(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    low, high = x.amin((2, 3), True).float(), x.amax((2, 3), True).float()
    stretched = ((x - low) * (255 / (high - low))).clamp(0, 255)
    return torch.where(high > low, stretched, x).to(torch.uint8)


def _equalize(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    out: Tensor = functional.equalize(x)
    return out


def _posterize(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    step = values[:, 0, None, None, None].to(torch.uint8)
    return x - x % step


def _solarize(x: Tensor, values: Values, colour: Tensor) -> Tensor:
    return torch.where(x >= values[:, 0, None, None, None], 255 - x, x)


OPERATIONS: dict[str, Callable[[Tensor, Values, Tensor], Tensor]] = {
    "Affine": _affine,
    "Brightness": lambda x, values, _: _blend(x, 0.0, values),
    "Color": _colour,
    "Contrast": lambda x, values, _: _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), values),
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": lambda x, *_: 255 - x,
}
