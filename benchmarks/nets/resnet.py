"""The residual networks for CIFAR-10 of He, Zhang, Ren, Sun (CVPR 2016, arXiv 1512.03385, section 4.2)."""

from torch import nn

from marginbench.benchmarks.nets.layers import Shape, convolution, pool
from marginbench.benchmarks.nets.network import network
from marginbench.methods import Residual, Subsample


@network("resnet20", width=16, smallest=4, channels_last=True, depth=20)
@network("resnet32", width=16, smallest=4, channels_last=True, depth=32)
@network("resnet44", width=16, smallest=4, channels_last=True, depth=44)
@network("resnet56", width=16, smallest=4, channels_last=True, depth=56)
@network("resnet110", width=16, smallest=4, channels_last=True, depth=110)
def cifar_resnet(shape: Shape, width: int, depth: int) -> nn.Sequential:
    """A 3x3 convolution and three stages of (depth - 2) / 6 blocks, with 16, 32 and 64 channels.

    Shortcuts are option A, without weights: the input, subsampled where a stage begins. The new channels are zero and
    follow the old ones; by symmetry this is the same network as with zeros on both sides.
    """
    layers: list[nn.Module] = [convolution(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for channels in (width, 2 * width, 4 * width):
        for _ in range((depth - 2) // 6):
            layers += [_block(inputs, channels), nn.ReLU()]
            inputs = channels
    return nn.Sequential(*layers, *pool(shape, 2))


def _block(inputs: int, channels: int) -> Residual:
    grows = inputs != channels
    branch = nn.Sequential(
        convolution(inputs, channels, 3, stride=2 if grows else 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        convolution(channels, channels, 3),
        nn.BatchNorm2d(channels),
    )
    return Residual(branch, Subsample(inputs, channels) if grows else None)
