"""The graph that a network is rewritten into, one layer after the other, each compared with what it stands for."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from marginbench.benchmarks.certificates._layers import PerChannel, Reshape
from marginbench.benchmarks.certificates._record import Unbounded

Pair = tuple[Tensor, Tensor]  # the value for either batch of images


class Data(NamedTuple):
    """A value that depends on the images."""

    node: fx.Node  # of the new graph
    values: Pair
    alone: bool  # one operation uses it

    @property
    def shape(self) -> torch.Size:
        """Of one image."""
        return self.values[0].shape[1:]

    @property
    def shared(self) -> "Data":
        """The same, for several uses."""
        return self._replace(alone=False)


class Builder:
    """The new graph, whose layers are modules of `root`."""

    def __init__(self) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()
        self.shape = torch.Size()  # of an image

    def start(self, images: Pair) -> Data:
        self.shape = images[0].shape[1:]
        return Data(self.graph.placeholder("x"), images, False)

    def apply(self, module: nn.Module, data: Data) -> Data:
        """What the module gives; a `PerChannel` is merged into a linear layer before it.

        What follows knows a `PerChannel` of features and of images: sequences and volumes become images for it.

        Raises:
            Unbounded: what it gives for an image depends on the others.
        """
        if isinstance(module, PerChannel) and len(data.shape) not in (1, 3):
            as_image = self.apply(Reshape((data.shape[0], math.prod(data.shape[1:]), 1)), data)
            return self.apply(Reshape(tuple(data.shape)), self.apply(module, as_image))
        first, second = (module(value) for value in data.values)
        if not close(module(data.values[1][1:2]), second[1:2]):
            raise Unbounded("what the model gives for an image depends on the others in its batch")
        if isinstance(module, PerChannel) and data.alone and data.node.op == "call_module":
            before = str(data.node.target)
            merged = merged_layer(self.root.get_submodule(before), module)
            if merged is not None:
                self.root.register_module(before, merged)
                return Data(data.node, (first, second), True)
        name = f"layer{len(self.root._modules)}"
        self.root.add_module(name, module)
        return Data(self.graph.call_module(name, (data.node,)), (first, second), True)

    def add(self, first: Data, second: Data) -> Data:
        node = self.graph.call_function(torch.add, (first.node, second.node))
        return Data(node, (first.values[0] + second.values[0], first.values[1] + second.values[1]), True)


def merged_layer(before: nn.Module, after: PerChannel) -> nn.Module | None:
    """Both as one layer, computed in float64; None where the first is not linear."""
    scale, shift = after.scale.double(), after.shift.double()
    if isinstance(before, PerChannel):
        scales = (scale * before.scale.double()).to(after.scale)
        return PerChannel(scales, (scale * before.shift.double() + shift).to(after.scale), after.flat)
    if isinstance(before, nn.Linear):
        return linear(scale[:, None] * before.weight.double(), scale * before.bias.double() + shift, before.weight)
    if type(before) is nn.Conv2d:
        assert before.bias is not None
        weight, bias = scale[:, None, None, None] * before.weight.double(), scale * before.bias.double() + shift
        options = {key: getattr(before, key) for key in ("stride", "padding")}
        return convolution(weight, bias, before.weight, **options)
    return None


def close(found: Tensor, wanted: Tensor) -> bool:
    """Equal up to rounding, relative to the largest entry; -inf equals itself alone."""
    return gap(found, wanted) <= (1e-4 if found.dtype == torch.float32 else 1e-9)


def gap(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest entry; inf where shapes differ or entries are not finite."""
    masked = wanted.isneginf()
    if found.shape != wanted.shape or not bool((wanted.isfinite() | masked).all()):
        return math.inf
    if not torch.equal(found.isneginf(), masked):
        return math.inf
    if not wanted.numel():
        return 0.0
    found, wanted = found.where(~masked, 0), wanted.where(~masked, 0)
    largest = (found - wanted).abs().amax() / wanted.abs().amax().clamp(min=1e-30)
    return float(largest) if largest.isfinite() else math.inf


# The layers below get the type and device of `like`.


def per_channel(scale: Tensor, shift: Tensor, like: Tensor) -> PerChannel:
    """For images, or for features where `like` is [B, D]."""
    return PerChannel(scale.to(like), shift.to(like), like.ndim == 2)


def linear(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """Made without drawing initial weights from the global generator, as all of these."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device=like.device).to(like.dtype)
    _fill(layer, weight, bias)
    return layer


def convolution(weight: Tensor, bias: Tensor | None, like: Tensor, **options: Any) -> nn.Conv2d:
    size: Any = tuple(weight.shape[2:])
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], size, device="meta", **options)
    layer = layer.to_empty(device=like.device).to(like.dtype)
    _fill(layer, weight, bias)
    return layer


def _fill(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        assert layer.bias is not None
        layer.bias.zero_() if bias is None else layer.bias.copy_(bias)
    layer.requires_grad_(False)


def depthwise(kernel: Tensor, channels: int, like: Tensor) -> Tensor:
    """Weights of the same kernel [h, w] for every channel, without groups, which auto-LiRPA's patches mix up."""
    return torch.eye(channels, dtype=like.dtype, device=like.device)[:, :, None, None] * kernel.to(like)
