"""Builds a network with fresh weights: normalisation, a body that ends in flat features, and a linear head."""

from functools import partial

import torch
from torch import Tensor, nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.network import Architecture
from marginbench.benchmarks.nets.outside import build_checked
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.methods import MarginbenchError, Net, Normalise


def make_net(
    chosen: str | Architecture, width: int | None, shape: Shape, num_classes: int, mean: Tensor, std: Tensor
) -> Net:
    """Build a network with fresh weights.

    Args:
        chosen: a name in `NETWORKS`, or an architecture.
        width: channels of the first convolution, or units of the hidden layers. Default: the architecture's.
        shape: channels, height, width of the images.
        mean, std: [C] float32 statistics of the training pixels in [0, 1].

    Raises:
        MarginbenchError: unknown name, images that are too small, or a user's network that breaks the contract.
    """
    architecture = NETWORKS.find(chosen, "network") if isinstance(chosen, str) else chosen
    least = architecture.smallest
    if min(shape[1:]) < least:
        raise MarginbenchError(
            f"network {architecture.name!r} needs images of {least}x{least} or more, not {shape[1]}x{shape[2]}"
        )
    width = architecture.width if width is None else width
    make = architecture.body if architecture.file is None else partial(build_checked, architecture, architecture.file)
    body = make(shape, width)
    assert isinstance(body, nn.Sequential)
    body.eval()  # the zeros must not enter the statistics of batch norm
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
    if not isinstance(layer, nn.Conv2d):
        return False
    return 1 < layer.in_channels < 8 and layer.kernel_size == (1, 1) and max(layer.stride) > 1
