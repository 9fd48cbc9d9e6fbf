"""The networks of the suites. All of them can be certified: ReLU, strided convolution, no pooling, no batch norm."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marginbench.methods import Net


class Normalise(nn.Module):
    """(x - mean) / std per channel: the first layer, so that every radius is in pixels of [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _linear(shape: tuple[int, int, int], width: int) -> list[nn.Module]:
    return [nn.Flatten()]


def _mlp(shape: tuple[int, int, int], width: int) -> list[nn.Module]:
    inputs = shape[0] * shape[1] * shape[2]
    return [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]


def _cnn(shape: tuple[int, int, int], width: int) -> list[nn.Module]:
    channels, height, width_px = shape
    flat = 2 * width * (height // 4) * (width_px // 4)
    return [
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 4 * width),
        nn.ReLU(),
    ]


NETWORKS: dict[str, Callable[[tuple[int, int, int], int], list[nn.Module]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "cnn": _cnn,
}


def make_net(name: str, width: int, shape: tuple[int, int, int], num_classes: int, mean: Tensor, std: Tensor) -> Net:
    """Build a network with fresh weights from torch's default initialisation.

    Args:
        name: `linear`, `mlp` (two hidden layers) or `cnn` (two 4x4 convolutions of stride 2, one hidden layer).
        width: units of the hidden layers of `mlp`, channels of the first convolution of `cnn`.
        shape: channels, height, width of the images.
        mean, std: [C] float32 statistics of the training pixels in [0, 1].
    """
    body = nn.Sequential(*NETWORKS[name](shape, width))
    normalise = Normalise(mean, std)
    with torch.no_grad():
        features = body(torch.zeros(1, *shape)).shape[1]
    return Net(normalise, body, nn.Linear(features, num_classes))
