"""How much memory linear bounds take, so that as many images are bounded at once as fit."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from marginbench.benchmarks.machine.allocations import Allocations
from marginbench.benchmarks.machine.budget import available

COPIES = 16  # of the largest matrix of coefficients: below, above, their signs, the products, windows of images
KEPT = 64  # of it, where all of them are kept for gradients


class Footprint:
    """The memory of bounds by auto-LiRPA, from the sizes of its graph.

    Bounds of a layer of m neurons go back to each layer of n neurons before it as coefficients [m, n] for each image.
    Fewer are kept where neurons are stable or their windows small: this is the most.

    Args:
        module: auto-LiRPA's, which has traced the network. However that was written, its graph is the same.
        x: images.
        classes: number of logits.
    """

    def __init__(self, module: Any, x: Tensor, classes: int) -> None:
        self.device, self.free = x.device, available(x.device)
        self.windows = x.ndim == 4  # images that were not multiplied out
        self.image = x.element_size() * max(_coefficients(module, classes))  # bytes of the largest matrix

    def chunk(self) -> int:
        """Images per pass: the largest matrix stays within 64 MiB, on CUDA within 2 GiB, and there is room for it.

        Behind convolutions within 256 MiB: there most entries lie outside the windows of the neurons, and none is made.
        """
        size, most = (2**31, 1024) if self.device.type == "cuda" else (2 ** (28 if self.windows else 26), 128)
        return max(1, min(most, min(size, self.free // 2) // self.image))

    def guard(self, images: int, gradients: bool) -> AbstractContextManager[Any]:
        """A block that raises before it takes more than there is; where it cannot, one that costs nothing."""
        copies = KEPT if gradients else COPIES
        return nullcontext() if copies * images * self.image < self.free else Allocations(self.free)


def _coefficients(module: Any, classes: int) -> Iterator[int]:
    """Entries of the matrices for one image, from every bounded layer to every layer before it."""
    nodes = [node for node in module._modules.values() if getattr(node, "from_input", False)]
    widths = {node.name: _width(node) for node in nodes}
    yield classes * classes  # the specification
    for node in nodes:
        for i in getattr(node, "requires_input_bounds", None) or ():
            start = _computed(module, node.inputs[i])
            for name in _before(start):
                yield widths.get(start.name, 0) * widths.get(name, 0)
    for width in widths.values():
        yield classes * width


def _computed(module: Any, node: Any) -> Any:
    """The node whose bounds are computed: a monotone layer has those of its input, mapped."""
    mapped = getattr(module, "ibp_intermediate", ())  # types, in auto-LiRPA 0.3; in 0.7 each node knows
    while type(node) in mapped or getattr(node, "ibp_intermediate", False):
        node = node.inputs[0]
    return node


def _before(node: Any) -> Iterator[str]:
    seen: set[str] = set()
    waiting = list(node.inputs)
    while waiting:
        one = waiting.pop()
        if one.name not in seen and getattr(one, "from_input", False):
            seen.add(one.name)
            waiting += one.inputs
            yield one.name


def _width(node: Any) -> int:
    """Neurons of a layer, of one image."""
    shape = getattr(node, "output_shape", None)
    return math.prod(map(int, tuple(shape or ())[1:]))
