"""The layers with weights of any network, found and watched without taking it apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.maths.perturb import eval_mode
from marginbench.methods.net import Net

Weighted = nn.Linear | nn.Conv2d


def weighted_layers(module: nn.Module) -> list[Weighted]:
    """The linear and convolutional layers, in the order in which they were registered."""
    return [layer for layer in module.modules() if isinstance(layer, Weighted)]


def head_weight(net: Net, method: str) -> Tensor:
    """The class weights [K, d].

    Raises:
        MarginbenchError: the head has none, and the method named cannot do without.
    """
    weight = getattr(net.head, "weight", None)
    if not isinstance(weight, Tensor):
        raise MarginbenchError(f"{method} needs a head with .weight [K, d], not {type(net.head).__name__}")
    return weight


@contextmanager
def changed_outputs(layers: list[Weighted], change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, layer i passes on change(i, output) in place of its output."""

    def hook(position: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda module, inputs, output: change(position, output)

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_sizes(net: Net, layers: list[Weighted], x: Tensor) -> list[torch.Size]:
    """The shapes that the layers see for images x [1, C, H, W], without touching running statistics."""
    sizes: dict[int, torch.Size] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[id(layer)] = inputs[0].shape

    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    with eval_mode(net), torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return [sizes[id(layer)] for layer in layers]
