"""The hidden layers of any network, at fixed depths."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from marginbench.methods import Net
from marginbench.methods.maths.rounding import in_reach

DEPTHS = 3  # hidden layers: after a third of the blocks, after two thirds, after all of them
ROUNDING = 1e-4  # of the largest gap between two logits


def hidden_layers(net: nn.Module, images: Tensor) -> list[nn.Module]:
    """The modules whose outputs are hidden layers, `DEPTHS` of them, or none where the network has no hidden layer.

    There are none either where a part of the network is TorchScript, which tells nothing of its calls.

    The parts of a network that follow one upon another are those of its nn.Sequential, and of those inside it; where
    only one of them has weights (an outside model as a whole), its children. They count in the order in which they
    are called, if they are called once. A block begins with each part that has a weight of two dimensions or more and
    ends before the next: a convolution with its norm, ReLU and pooling is one block, and so is a residual one. Its
    output is that of its last part; functions that are no modules are not seen. With fewer than `DEPTHS` blocks some
    stand for two depths. The logits are no hidden layer, nor are logits that a softmax, a scale or a mask follows.

    Args:
        images: [B, C, H, W], which are asked for the order of the parts, and for the logits among them.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        return []
    parts = list(_parts(net.body if isinstance(net, Net) else net))
    weighted = [part for part in parts if _has_weight(part)]
    if len(weighted) == 1 and list(weighted[0].children()):
        parts = [child for part in weighted[0].children() for child in _parts(part)]
    ends: list[nn.Module] = []
    for part in _called(net, parts, images):
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
def _called(net: nn.Module, parts: list[nn.Module], images: Tensor) -> list[nn.Module]:
    """The parts in the order of their calls, up to the logits.

    Without those that are not called once, or return no activations.
    """
    calls: list[tuple[nn.Module, object]] = []
    handles = [part.register_forward_hook(lambda part, _, out: calls.append((part, out))) for part in set(parts)]
    try:
        logits = net(torch.cat([images, images]))  # of two images what is a constant has no rows
    finally:
        for handle in handles:
            handle.remove()
    order = [part for part, _ in calls]
    known_head = isinstance(net, Net) and _has_weight(net.head)
    found = []
    for part, out in calls:
        if not isinstance(out, Tensor) or not out.is_floating_point() or out.shape[:1] != logits.shape[:1]:
            continue
        if out is logits or (not known_head and _rank_alike(out, logits)):
            break
        if order.count(part) == 1:
            found.append(part)
    return found


def _rank_alike(out: Tensor, logits: Tensor) -> bool:
    """Whether classes are in the order of the logits in every row, as far as these tell them apart."""
    if out.shape != logits.shape:
        return False
    masked = ~in_reach(logits)
    above, before = (z[:, :, None] - z[:, None] for z in (logits.masked_fill(masked, torch.nan), out))
    apart = above > ROUNDING * above.nan_to_num().amax()
    return bool(apart.any() and (before[apart] > 0).all())
