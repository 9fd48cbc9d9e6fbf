"""The decorator that adds a data transform by name: from a file of this folder, or from a plug-in.

    from marginbench.benchmarks import Transform, transform

    @transform("noise")
    class Noise(Transform):
        sigma: float = 0.1

        def __call__(self, x, fill, stream):
            noise = torch.randn(x.shape, generator=stream).to(x.device)
            return (x + self.sigma * noise).clamp(0, 1)

A suite then names it: `augment = ["crop", "noise"]`, or `augment = { crop = {}, noise = { sigma = 0.2 } }`.
"""

from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from marginbench.benchmarks.registry import Registry
from marginbench.benchmarks.section import Section


class Transform(Section):
    """A random change of the training images, the same for every method. Its fields are the settings of a suite.

    Called with a batch as a whole, on its device: images x [B, C, H, W] float32 in [0, 1] to such images, of the same
    shape. `fill` [C] is the colour of what has no pixel of its own. All random numbers come from `stream`, a generator
    on the CPU: they are then the same on every device.
    """

    place: ClassVar[int] = 100  # transforms are applied in the order of their places, then of their names

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        raise NotImplementedError


TRANSFORMS: Registry[type[Transform]] = Registry()
Kind = TypeVar("Kind", bound=type[Transform])


def transform(name: str) -> Callable[[Kind], Kind]:
    """Add a transform that suites can name.

    Raises:
        MarginbenchError: another file has the name already.
    """

    def add(cls: Kind) -> Kind:
        TRANSFORMS.add(name, cls)
        return cls

    return add
