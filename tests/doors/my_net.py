"""A custom network, which a suite names by its file: network = { file = "my_net.py:make", width = 8 }."""

import torch
from torch import Tensor, nn


class TwoScales(nn.Module):
    """Kernels of two sizes side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(inputs, outputs, 2, stride=2)
        self.coarse = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.fine(x), self.coarse(x)], 1)


def make(shape: tuple[int, int, int], width: int = 16) -> nn.Module:
    return nn.Sequential(TwoScales(shape[0], width), nn.ReLU(), TwoScales(2 * width, width), nn.ReLU(), nn.Flatten())
