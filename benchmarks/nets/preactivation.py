"""Residual networks with batch norm and ReLU before the convolutions, so that nothing follows the sums."""

from collections.abc import Sequence

from torch import nn

from marginbench.benchmarks.nets.layers import Shape, convolution, pool
from marginbench.benchmarks.nets.network import network
from marginbench.methods import Residual


@network("preact_resnet18", width=64, smallest=8, channels_last=True)
def preact_resnet18(shape: Shape, width: int) -> nn.Sequential:
    """PreAct-ResNet-18 for small images: 64 to 512 channels, two blocks a stage, no stride before the second stage.

    Blocks are those of He, Zhang, Ren, Sun (ECCV 2016, arXiv 1603.05027, figure 1b), sizes those of the network that
    papers on adversarial training use on CIFAR-10 (Rice, Wong, Kolter, ICML 2020).
    """
    return _body(shape, width, (width, 2 * width, 4 * width, 8 * width), blocks=2)


@network("wrn_16_4", width=16, smallest=4, channels_last=True, depth=16, factor=4)
@network("wrn_16_4_dropout", width=16, smallest=4, channels_last=True, depth=16, factor=4, dropout=0.4)
@network("wrn_16_4_lmt", width=16, smallest=4, channels_last=True, depth=16, factor=4, dropout=0.4, pooled=True)
@network("wrn_28_4", width=16, smallest=4, channels_last=True, depth=28, factor=4)
@network("wrn_28_10", width=16, smallest=4, channels_last=True, depth=28, factor=10)
def wide_resnet(
    shape: Shape, width: int, depth: int, factor: int, dropout: float = 0.0, pooled: bool = False
) -> nn.Sequential:
    """WRN-depth-factor of Zagoruyko and Komodakis (BMVC 2016, arXiv 1605.07146, table 1).

    Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 channels, times the factor. `dropout` is the probability
    of dropping an activation between the two convolutions of a block, 0.4 in the paper's networks for SVHN. With
    `pooled`, shortcuts halve the size by the mean of 2x2 pixels, and not by a stride, which drops three of four: their
    Lipschitz constant is half as large. So do the networks of Tsuzuku, Sato, Sugiyama (NeurIPS 2018) for c = 0.1
    (`wide_resnet_avg.py` of github.com/ytsmiling/lmt).
    """
    stages = [factor * width, 2 * factor * width, 4 * factor * width]
    return _body(shape, width, stages, blocks=(depth - 4) // 6, dropout=dropout, pooled=pooled)


def _body(
    shape: Shape, stem: int, stages: Sequence[int], blocks: int, dropout: float = 0.0, pooled: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = [convolution(shape[0], stem, 3)]
    inputs, size = stem, (shape[1], shape[2])
    for stage, channels in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = _shortcut(inputs, channels, stride, size if pooled else None)
            layers += _block(inputs, channels, stride, dropout, shortcut)
            inputs, size = channels, (-(-size[0] // stride), -(-size[1] // stride))
    return nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(), *pool(shape, len(stages) - 1))


def _block(inputs: int, channels: int, stride: int, dropout: float, shortcut: nn.Module | None) -> list[nn.Module]:
    """One sum. Where sizes change, the first batch norm and ReLU precede both paths, else they begin the branch."""
    entry = [nn.BatchNorm2d(inputs), nn.ReLU()]
    branch = [
        convolution(inputs, channels, 3, stride),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *([nn.Dropout(dropout)] if dropout else []),
        convolution(channels, channels, 3),
    ]
    if shortcut is None:
        return [Residual(nn.Sequential(*entry, *branch))]
    return [*entry, Residual(nn.Sequential(*branch), shortcut)]


def _shortcut(inputs: int, channels: int, stride: int, pooled: tuple[int, int] | None) -> nn.Module | None:
    """A 1x1 convolution where sizes change; images of the height and width `pooled` are halved by means."""
    if inputs == channels and stride == 1:
        return None
    if stride == 1 or pooled is None:
        return convolution(inputs, channels, 1, stride)
    odd = (pooled[0] % 2, pooled[1] % 2)  # round sizes up, as the branch does
    return nn.Sequential(nn.AvgPool2d(stride, padding=odd), convolution(inputs, channels, 1))
