"""The first MobileNet, which the paper of PMM cites for ImageNet; torchvision has only later versions."""

from torch import nn

from marginbench.benchmarks.nets.layers import Shape, convolution, pool
from marginbench.benchmarks.nets.network import network

SMALL = 64  # pixels; smaller images keep their size through the first two strides


@network("mobilenet", width=32, smallest=8, channels_last=True)
def mobilenet(shape: Shape, width: int) -> nn.Sequential:
    """Howard et al. (2017, arXiv 1704.04861, table 1), for images of 224x224; smaller ones skip the first two strides.

    The table gives the last depthwise convolution stride 2, but the same size before and after it: stride 1 here.
    We know no Lipschitz bound for depthwise convolutions: that certificate does not apply.
    """
    small = min(shape[1:]) < SMALL
    first = 1 if small else 2
    pairs = [(2, 1), (4, first), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]
    layers = _normed(convolution(shape[0], width, 3, first))
    inputs = width
    for widths, stride in pairs:
        layers += _normed(convolution(inputs, inputs, 3, stride, groups=inputs))
        layers += _normed(convolution(inputs, widths * width, 1))
        inputs = widths * width
    return nn.Sequential(*layers, *pool(shape, 3 if small else 5))


def _normed(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]
