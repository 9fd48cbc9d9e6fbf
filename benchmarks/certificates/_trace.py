"""A network as auto-LiRPA bounds it: prepared for it, traced, and the trace checked."""

import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates._fold import fold_affine, traceable
from marginbench.benchmarks.certificates._layers import Curved
from marginbench.benchmarks.certificates._operators import own_operators
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified

PROBE = 64  # images on which the trace is compared with the network
KINDS = {"Input", "Params", "Buffers", "Constant", "Linear", "Conv", "Relu", "Add", "Flatten", "Reshape"}
"""auto-LiRPA's operations that are bounded right: of Conv those with one stride, one padding, no groups, no dilation.

In 0.3 its patches forget groups and dilation, and mix up heights and widths (see `_compat`); its average pooling takes
every stride for the kernel's size and forgets padding, `ceil_mode` and `count_include_pad`; its max pooling mixes up
sizes and drops padding; its LeakyReLU is a convex function with a slope in [0, 1]. Nothing in it says so.
"""


def prepared(net: nn.Sequential, x: Tensor, limit: int) -> tuple[nn.Sequential, Tensor]:
    """The network, and the images x [B, C, H, W], as auto-LiRPA bounds them fast and soundly.

    Args:
        limit: entries of weights up to which the network is multiplied out into matrices; the images are flat then.

    Raises:
        Unbounded: an operation has no bound here.
    """
    folded = fold_affine(net, x, limit)
    if folded is None:
        simple = simplified(net, x)
        folded = fold_affine(simple, x, limit, (nn.ReLU, Curved))
        if folded is None:
            return traceable(simple, x), x
    return folded, x.flatten(1)


def bounded_module(library: ModuleType, net: nn.Sequential, x: Tensor, options: dict[str, Any]) -> Any:
    """auto-LiRPA's module of a prepared network.

    Args:
        options: its own; without `conv_mode` that is `patches`, where these are bounded right, or else `matrix`.

    Raises:
        Unbounded: it does not compute the same, or bounds an operation by itself that it bounds wrongly.
    """
    module = _traced(library, net, x, {"conv_mode": "patches", **options})
    if options.get("conv_mode") != "matrix" and _loses_places(module):
        if "conv_mode" in options:
            raise Unbounded(
                'no patches behind a rearrangement or a reshaping into images: choose conv_mode = "auto" or "matrix"'
            )
        module = _traced(library, net, x, {"conv_mode": "matrix", **options})
    check_operations(module)
    _check_logits(module, net, x)
    return module


def _traced(library: ModuleType, net: nn.Sequential, x: Tensor, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():  # tracing goes through deprecated parts of torch
        warnings.simplefilter("ignore")
        module = library.BoundedModule(
            net, torch.zeros_like(x[:2]), bound_opts=options, device=x.device, custom_ops=own_operators()
        )
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _loses_places(module: Any) -> bool:
    """Whether patches go back through a rearrangement, or a reshaping into images: they take these for squares.

    Not where a matrix comes before it, nor where all is flattened behind it.
    """
    kinds = {node.name: type(node).__name__ for node in module._modules.values()}

    def lost(node: Any) -> bool:
        flattened = all(kinds[name] == "BoundFlatten" for name in node.output_name)
        return kinds[node.inputs[0].name] != "BoundLinear" and len(node.output_shape) == 4 and not flattened

    reshaped = (node for node in module._modules.values() if kinds[node.name] == "BoundReshape")
    moved = "BoundMoved" in kinds.values()
    return "BoundConv" in kinds.values() and (moved or any(lost(node) for node in reshaped))


def check_operations(module: Any) -> None:
    """Raise Unbounded unless all operations are ours or of `KINDS`."""
    own = tuple(own_operators().values())
    for node in module._modules.values():
        kind = type(node).__name__.removeprefix("Bound")
        right = isinstance(node, own) or kind in KINDS
        if kind == "Conv":
            one_each = len({*node.stride}) == len({*node.padding}) == 1
            right = one_each and node.groups == 1 and {*node.dilation} == {1}
        if not right:
            raise Unbounded(f"auto-LiRPA's bounds of this {kind} are not to be trusted")


def _check_logits(module: Any, net: nn.Sequential, x: Tensor) -> None:
    """Bounds are about the traced network: sizes fixed at tracing can make that another one.

    Raises:
        Unbounded: its logits are not those of the network, for one batch size or another.
    """
    for part in (x[:1], x[:PROBE]):
        if not torch.allclose(module(part), net(part), rtol=1e-3, atol=1e-4):
            raise Unbounded("auto-LiRPA's trace of the network gives other logits")
