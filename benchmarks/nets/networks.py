"""The networks of the suites: normalisation, a body that ends in flat features, and a linear head.

`width` is the number of channels of the first convolution; all others grow with it, so that a network of a paper also
exists small (`mlp` counts units, `resnet50` says what it means there). The default is the paper's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.mobile import mobilenet
from marginbench.benchmarks.nets.preactivation import preact_resnet18, wide_resnet
from marginbench.benchmarks.nets.resnet import cifar_resnet
from marginbench.benchmarks.nets.small import cnn, cnn4, cnn7, cnn_6c2f, lenet5, lenet5_madry, linear, mlp
from marginbench.benchmarks.nets.vision import mobilenet_v2, resnet50, vgg16_bn
from marginbench.methods import MarginbenchError, Net, Normalise


@dataclass(frozen=True)
class Architecture:
    """How a body is built, for images of some shape and with some width."""

    body: Callable[[Shape, int], nn.Sequential]
    width: int  # the paper's
    smallest: int = 1  # height and width of the images, at least
    channels_last: bool = False  # memory layout of the weights: ResNet-20 trains 1.4 times as fast with it


NETWORKS: dict[str, Architecture] = {
    "linear": Architecture(linear, 16),
    "mlp": Architecture(mlp, 16),
    "cnn": Architecture(cnn, 16, 4),
    "lenet5": Architecture(lenet5, 20, 16),
    "lenet5_madry": Architecture(lenet5_madry, 32, 4),
    "cnn4": Architecture(cnn4, 16, 4),
    "cnn7": Architecture(cnn7, 32, 4),
    "cnn_6c2f": Architecture(cnn_6c2f, 32, 4),
    **{f"resnet{depth}": Architecture(partial(cifar_resnet, depth), 16, 4, True) for depth in (20, 32, 44, 56, 110)},
    "preact_resnet18": Architecture(preact_resnet18, 64, 8, True),
    "wrn_16_4": Architecture(partial(wide_resnet, 16, 4), 16, 4, True),
    "wrn_16_4_dropout": Architecture(partial(wide_resnet, 16, 4, dropout=0.4), 16, 4, True),  # as on SVHN
    "wrn_28_4": Architecture(partial(wide_resnet, 28, 4), 16, 4, True),
    "wrn_28_10": Architecture(partial(wide_resnet, 28, 10), 16, 4, True),
    "vgg16_bn": Architecture(vgg16_bn, 64, 32, True),
    "mobilenet": Architecture(mobilenet, 32, 8, True),
    "mobilenet_v2": Architecture(mobilenet_v2, 32, 8, True),
    "resnet50": Architecture(resnet50, 64, 32, True),
}


def make_net(name: str, width: int, shape: Shape, num_classes: int, mean: Tensor, std: Tensor) -> Net:
    """Build a network with fresh weights.

    Args:
        name: one of `NETWORKS`.
        width: channels of the first convolution, or units of the hidden layers; `NETWORKS[name].width` is the paper's.
        shape: channels, height, width of the images.
        mean, std: [C] float32 statistics of the training pixels in [0, 1].

    Raises:
        MarginbenchError: the images are too small for the network.
    """
    architecture = NETWORKS[name]
    least = architecture.smallest
    if min(shape[1:]) < least:
        raise MarginbenchError(f"network {name!r} needs images of {least}x{least} or more, not {shape[1]}x{shape[2]}")
    body = architecture.body(shape, width).eval()  # statistics of batch norm must not see the zeros
    with torch.no_grad():
        features = body(torch.zeros(1, *shape)).shape[1]
    net = Net(Normalise(mean, std), body.train(), nn.Linear(features, num_classes))
    channels_last = architecture.channels_last and not any(map(corrupts_memory, net.modules()))
    return net.to(memory_format=torch.channels_last) if channels_last else net


def corrupts_memory(layer: nn.Module) -> bool:
    """Whether the layer's backward pass may write out of bounds in channels_last.

    With torch 2.15, on processors with AVX2 and without AVX-512, those of 1x1 convolutions with stride 2 and 2 to 6
    input channels do ("free(): invalid size"); a network that has one keeps its weights contiguous.
    """
    narrow = isinstance(layer, nn.Conv2d) and 1 < layer.in_channels < 8
    return narrow and layer.kernel_size == (1, 1) and max(layer.stride) > 1
