"""The hidden layers of any network, at fixed depths."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from marginbench.methods import Net

DEPTHS = 3  # hidden layers: after a third of the blocks, after two thirds, after all of them


def hidden_layers(net: nn.Module, image: Tensor) -> list[nn.Module]:
    """The modules whose outputs are hidden layers, `DEPTHS` of them, or none where the network has no hidden layer.

    There are none either where a part of the network is TorchScript, which tells nothing of its calls.

    The parts of a network that follow one upon another are those of its nn.Sequential, and of those inside it; where
    only one of them has weights (an outside model as a whole), its children. They count in the order in which they
    are called, if they are called once. A block begins with each part that has a weight of two dimensions or more and
    ends before the next: a convolution with its norm, ReLU and pooling is one block, and so is a residual one. Its
    output is that of its last part. With fewer than `DEPTHS` blocks some stand for two depths. The logits are no
    hidden layer.

    Args:
        image: [1, C, H, W], which is asked for the order.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        return []
    parts = list(_parts(net.body if isinstance(net, Net) else net))
    weighted = [part for part in parts if _has_weight(part)]
    if len(weighted) == 1 and list(weighted[0].children()):
        parts = [child for part in weighted[0].children() for child in _parts(part)]
    ends: list[nn.Module] = []
    for part in _called(net, parts, image):
        if _has_weight(part):
            ends.append(part)
        elif ends:
            ends[-1] = part
    return [ends[-(-len(ends) * depth // DEPTHS) - 1] for depth in range(1, DEPTHS + 1)] if ends else []


@contextmanager
def outputs_of(layers: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """A block in which each call of the layers leaves its output in the mapping."""
    found: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, _: object, out: Tensor) -> None:
        found[layer] = out

    handles = [layer.register_forward_hook(note) for layer in dict.fromkeys(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _parts(child)
    else:
        yield module


def _has_weight(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


@torch.no_grad()
def _called(net: nn.Module, parts: list[nn.Module], image: Tensor) -> list[nn.Module]:
    """The parts in the order of their calls, without those that are not called once, or return no activations."""
    calls: list[tuple[nn.Module, object]] = []
    handles = [part.register_forward_hook(lambda part, _, out: calls.append((part, out))) for part in set(parts)]
    try:
        logits = net(torch.cat([image, image]))  # of two images what is a constant has no rows
    finally:
        for handle in handles:
            handle.remove()
    order = [part for part, _ in calls]
    return [
        part
        for part, out in calls
        if order.count(part) == 1
        and isinstance(out, Tensor)
        and out.is_floating_point()
        and out.shape[:1] == logits.shape[:1]
        and out is not logits
    ]
