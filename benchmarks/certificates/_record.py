"""What a network computes, as a list of torch's own operations, recorded while it runs on images.

Layers, functions and methods of tensors end up as the same few operations, whatever the code around them looks like;
parts that do not depend on the images (weight norm, normalised weights, sizes) are numbers in the end.
"""

import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from marginbench.benchmarks.certificates._by_image import ByImage
from marginbench.benchmarks.certificates._functions import forward_alone
from marginbench.benchmarks.certificates._values import ReadsValuesError, values_unread
from marginbench.methods.errors import one_line
from marginbench.methods.held import duplicate

BATCHES = (2, 3)  # sizes: what differs between two recordings beyond them depends on the batch or on the data


class Unbounded(Exception):  # noqa: N818 - an answer, no error
    """Why a network has no certificate here, in the words of its user."""


def record(net: nn.Module, x: Tensor) -> tuple[fx.GraphModule, fx.GraphModule, tuple[Tensor, Tensor]]:
    """The operations on two batches of random images like x, node by node the same.

    Raises:
        Unbounded: the network's code depends on the values in the images, or on how many there are.
    """
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.rand(size, *x.shape[1:], generator=stream, dtype=torch.float64).to(x) for size in BATCHES)
    graphs = [_recorded(net, batch) for batch in (first, second)]
    if [node.target for node in _calls(graphs[0])] != [node.target for node in _calls(graphs[1])]:
        raise Unbounded("the model computes other things when the batch has another size")
    return graphs[0], graphs[1], (first, second)


def _recorded(net: nn.Module, x: Tensor) -> fx.GraphModule:
    try:
        with torch.no_grad(), ByImage():
            copy = duplicate(net)  # what is recorded stays in whatever a network keeps from its calls
            images = x.clone()

            def read(batch: Tensor) -> Any:
                with values_unread(images):  # the batch itself, or what `functionalize` has wrapped in it
                    return copy(batch)

            read(images)  # what it keeps from its first call is there, as numbers
            images = x.clone()
            with forward_alone():
                return make_fx(functionalize(read))(images)
    except Unbounded:  # a wrapper that knows why
        raise
    except Exception as error:  # the network's own code may raise anything
        where = _whose(error)
        if isinstance(error, ReadsValuesError) and "max_unpool" in str(error):
            raise Unbounded("MaxUnpool has no sound bound here: the image decides where its values go") from None
        if isinstance(error, ReadsValuesError):
            raise Unbounded(
                f"the code of {where} decides by the values in the image (if, float(), item(), nonzero(), x[mask]), or"
                " by random ones; a bound would hold for one case only: use tensor operations such as relu or clamp"
            ) from None
        raise Unbounded(f"the code of {where} fails where its operations are recorded: {one_line(error)}") from None


def _whose(error: Exception) -> str:
    """The class of the module in whose code an error arose, if it is none of torch's."""
    modules = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [type(m) for m in modules if isinstance(m, nn.Module) and not type(m).__module__.startswith("torch.")]
    return own[-1].__name__ if own else "the model"


def name_of(node: fx.Node) -> str:
    """`relu` of aten.relu.default."""
    text = str(node.target)
    return text.split(".")[1] if text.startswith("aten.") else text


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")


def same(first: Any, second: Any) -> Any:
    """A number, size or tensor of both recordings; of one row per image the row, if all are equal.

    Raises:
        Unbounded: they differ.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape == second.shape and torch.equal(first, second):
            return first
        rows = first.ndim and second.ndim and (len(first), len(second)) == BATCHES
        if rows and all(torch.equal(row, first[0]) for part in (first, second) for row in part):
            return first[:1]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        return [same(a, b) for a, b in zip(first, second, strict=True)]
    elif type(first) is type(second) and first == second:
        return first
    raise Unbounded("a number in the model depends on the batch, or was taken out of torch (numpy)")
