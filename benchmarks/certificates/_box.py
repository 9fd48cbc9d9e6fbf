"""Limits that change nothing in the box, as of models that begin with `x.clamp(0, 1)`: certificates do without them.

That is sound because a certified set is the part of a ball that lies in the box.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.certificates._builder import Data
from marginbench.benchmarks.certificates._call import Call
from marginbench.benchmarks.certificates._layers import PerChannel, Reshape, Shift

ENTRYWISE = (PerChannel, Shift, Reshape)  # each number depends on one pixel, and is affine in it
ROUNDING = 8  # units of the largest value, by which limits that were computed may miss it

Limits = tuple[Any, Any]  # numbers or tensors, between which a function is the identity; None: there is none


def _arguments(call: Call) -> Limits:
    return call.get(1), call.get(2)


def _other(call: Call) -> Any:
    return call.get(1) if isinstance(call.get(0), Data) else call.get(0)


LIMITS: dict[str, Callable[[Call], Limits]] = {
    **dict.fromkeys(("relu", "leaky_relu", "prelu", "_prelu_kernel", "abs"), lambda call: (0, None)),
    **dict.fromkeys(("clamp", "clip", "hardtanh"), _arguments),
    "relu6": lambda call: (0, 6),
    "clamp_min": lambda call: (call.get(1), None),
    "clamp_max": lambda call: (None, call.get(1)),
    "maximum": lambda call: (_other(call), None),
    "minimum": lambda call: (None, _other(call)),
}


def unlimited(call: Call) -> Data | None:
    """What enters a function that is the identity on all values that images of the box lead to; else None."""
    if call.name not in LIMITS:
        return None
    x = next(part for part in call.arguments[0] if isinstance(part, Data))
    bounds = LIMITS[call.name](call)
    values = None if any(isinstance(bound, Data) for bound in bounds) else _range(call, x)
    if values is None or x.shape != call.shape:
        return None
    low, high = values
    slack = ROUNDING * torch.finfo(call.out[0].dtype).eps * torch.maximum(low.abs(), high.abs()).amax()
    least, most = (
        torch.as_tensor(default if bound is None else bound, dtype=torch.float64, device=low.device)
        for bound, default in zip(bounds, (-math.inf, math.inf), strict=True)
    )
    return x if bool(((low >= least - slack) & (high <= most + slack)).all()) else None


def _range(call: Call, x: Data) -> tuple[Tensor, Tensor] | None:
    """The least and greatest values [1, ...] float64 over the box, or None unless all layers before are entrywise."""
    layers, node = [], x.node
    while node.op == "call_module":
        layers.append(call.builder.root.get_submodule(str(node.target)))
        (node,) = node.all_input_nodes
    if node.op != "placeholder" or not all(isinstance(layer, ENTRYWISE) for layer in layers):
        return None
    like = call.out[0]
    low, high = (torch.full((1, *call.builder.shape), end, dtype=torch.float64, device=like.device) for end in (0, 1))
    for layer in reversed(layers):
        low, high = layer(low), layer(high)
    return torch.minimum(low, high), torch.maximum(low, high)
