"""Builds a network with fresh weights: normalisation, a body that ends in flat features, and a linear head."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.network import Architecture
from marginbench.benchmarks.nets.outside import build_checked
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.methods import MarginbenchError, Net, Normalise

HEAD_STD = 0.02  # of the head's initial weights behind sentences (Devlin et al., as in their code)


def make_net(
    chosen: str | Architecture,
    width: int | None,
    shape: Shape,
    num_classes: int,
    mean: Tensor,
    std: Tensor,
    checkpoint: Path | None = None,
) -> Net:
    """Build a network with fresh weights.

    Args:
        chosen: a name in `NETWORKS`, or an architecture.
        width: channels of the first convolution, or units of the hidden layers. Default: the architecture's.
        shape: channels, height, width of the images; of sentences 2, 1 and their length.
        mean, std: [C] float32 statistics of the training pixels in [0, 1]; sentences have none.
        checkpoint: the folder from which a pretrained network starts.

    Raises:
        MarginbenchError: unknown name, a package that is missing, images that are too small, or a user's network that
            breaks the contract.
    """
    architecture = NETWORKS.find(chosen, "network") if isinstance(chosen, str) else chosen
    if architecture.needs is not None:
        architecture.needs.check(f"network {architecture.name!r}")
    if architecture.text:
        return _make_text_net(architecture, width, shape, num_classes, checkpoint)
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


def _make_text_net(
    architecture: Architecture, width: int | None, shape: Shape, num_classes: int, checkpoint: Path | None
) -> Net:
    if architecture.pretrained:
        if checkpoint is None:
            raise MarginbenchError(f"network {architecture.name!r}: no folder of a checkpoint to start from")
        body = architecture.body(shape, checkpoint)
    else:
        body = architecture.body(shape, architecture.width if width is None else width)
    assert isinstance(body, nn.Sequential)
    with torch.no_grad():
        features = body.eval()(torch.ones(1, *shape, dtype=torch.int64)).shape[1]
    head = nn.Linear(features, num_classes)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)
    return Net(nn.Identity(), body.train(), head)


def corrupts_memory(layer: nn.Module) -> bool:
    """Whether the layer's backward pass may write out of bounds in channels_last.

    With torch 2.15, on processors with AVX2 and without AVX-512, those of 1x1 convolutions with stride 2 and 2 to 6
    input channels do ("free(): invalid size"); a network that has one keeps its weights contiguous.
    """
    if not isinstance(layer, nn.Conv2d):
        return False
    return 1 < layer.in_channels < 8 and layer.kernel_size == (1, 1) and max(layer.stride) > 1
