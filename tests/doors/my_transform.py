"""A custom data transform, given with --plugin: augment = { crop = {}, noise = { sigma = 0.2 } }."""

import torch
from pydantic import Field
from torch import Tensor

from marginbench.benchmarks import Transform, transform


@transform("noise")
class Noise(Transform):
    """Adds Gaussian noise to the pixels."""

    sigma: float = Field(default=0.1, gt=0)  # standard deviation, in pixels of [0, 1]

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=stream).to(x.device)
        return (x + self.sigma * noise).clamp(0, 1)
