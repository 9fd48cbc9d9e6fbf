"""The check that what a method declares to need is what it is seen to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.contract.fixtures import Stage, loss_of, require, stage
from marginbench.benchmarks.machine import seeds
from marginbench.methods import Method
from marginbench.methods.facts import Need


def needs_declared(method: Method) -> None:
    """What Info.needs declares is what is observed: gradients of inputs, inner attacks, pixels, tables, own steps.

    An inner attack asks the network about images that depend on it: with other weights and the same random numbers
    they are others. Noise is none, however often it is drawn.
    """
    observed: set[Need] = set()
    if type(method).update is not Method.update:
        observed.add("own_update")
    s = stage(method)
    images = _images(s, observed)
    if s.ctx.tables:
        observed.add("index")
    other = stage(method)
    _shake(other)
    if images - _images(other, set()):
        same = images == _images(stage(method), set())
        require(same, "the same seed gives other images in another call: draw random numbers from ctx.generator alone")
        observed.add("inner_attack")
    declared = set(method.info.needs) - {"pretrained", "epsilon"}
    for needs in (observed, declared):
        if needs & {"second_order", "inner_attack"}:
            needs.add("input_grad")
    missing, idle = sorted(observed - declared), sorted(declared - observed)
    require(not missing, f"observed but not in Info.needs: {', '.join(missing)}")
    require(not idle, f"in Info.needs but not observed: {', '.join(idle)}")


def _shake(s: Stage) -> None:
    """Other weights of the same sizes: each times 1 + 0.3 n, n ~ N(0, 1)."""
    stream = seeds.generator(s.ctx.device, "contract", "shake")
    with torch.no_grad():
        for weight in s.net.parameters():
            weight.mul_(1 + 0.3 * torch.randn(weight.shape, generator=stream, device=stream.device))


def _images(s: Stage, observed: set[Need]) -> set[bytes]:
    """The images that the loss asks the network about, bit by bit; notes the gradients that it takes."""
    images: set[bytes] = set()

    def on_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.shape[1:] == s.batch.x.shape[1:]:
            images.update(image.numpy().tobytes() for image in x.detach().cpu())
        if x.requires_grad:
            x.register_hook(on_gradient)  # of any way to ask for it, as backward()

    def on_gradient(gradient: Tensor) -> None:
        observed.add("input_grad")
        if gradient.requires_grad:
            observed.add("second_order")

    normalised: set[bytes] = set()

    def on_normalised(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        normalised.update(image.numpy().tobytes() for image in output.detach().cpu())

    def on_body(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given = {image.numpy().tobytes() for image in inputs[0].detach().cpu()}
        if normalised and given - normalised:
            observed.add("pixels")

    handles = [
        s.net.normalise.register_forward_pre_hook(on_forward),
        s.net.normalise.register_forward_hook(on_normalised),
        s.net.body.register_forward_pre_hook(on_body),
    ]
    try:
        with _gradients_noted(s, observed), seeds.seeded(s.ctx.device, "contract", "dropout"):
            loss_of(s)
    finally:
        for handle in handles:
            handle.remove()
    return images


@contextmanager
def _gradients_noted(s: Stage, observed: set[Need]) -> Iterator[None]:
    """A block in which gradients that come back through a layer below the head are noted, but not those of weights.

    With respect to hidden layers, too; but not to features, nor those of a formula with respect to a number of its own.
    """
    weights = {id(p) for p in s.net.parameters()}
    below = weights - {id(p) for p in s.net.head.parameters()}
    original = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if any(id(tensor) not in weights for tensor in wanted) and _pass(outputs, wanted, below):
            observed.add("input_grad")
            if options.get("create_graph"):
                observed.add("second_order")
        return original(outputs, inputs, *args, **options)

    torch.autograd.grad = grad
    try:
        yield
    finally:
        torch.autograd.grad = original


def _pass(outputs: Any, wanted: list[Tensor], weights: set[int]) -> bool:
    """Whether one of the weights, by their ids, is in the graph between the outputs and the wanted tensors."""
    found = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    waiting, seen = [tensor.grad_fn for tensor in found], {tensor.grad_fn for tensor in wanted}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in weights:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
