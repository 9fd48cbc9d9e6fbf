"""What changes no class: softmax, or one number added to all logits, at the end, and division by the features' norm.

Also where several networks' log-probabilities are added: log_softmax adds one number to all of a network's logits.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from marginbench.benchmarks.certificates._record import name_of

TAILS: dict[str, Callable[..., Tensor]] = {"_softmax": F.softmax, "_log_softmax": F.log_softmax}
Tail = Callable[[Tensor], Tensor]
HOMOGENEOUS = """
    alias bmm clone detach div expand mm mul neg permute reshape squeeze sum t transpose unsqueeze view _unsafe_view
"""  # f(c x) = c f(x), of one argument that depends on the images


class LeftOut(NamedTuple):
    """What has been left out of a recording."""

    tails: list[Tail]  # operations at its end, the last one first
    shifted: bool  # one number of all logits of an image
    scaled: bool  # a positive factor of all logits of an image

    def compared(self, logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K], what must agree of the logits of what is left, and of those wanted."""
        for tail in reversed(self.tails):
            logits = tail(logits)
        last = self.tails[0] if self.tails else None
        if last is _relative or ((self.shifted or self.scaled) and (last is None or _is_shift(last))):
            logits, wanted = _relative(logits), _relative(wanted)
        return (_directions(logits), _directions(wanted)) if self.scaled else (logits, wanted)


def leave_out(recorded: fx.GraphModule) -> LeftOut:
    """Take out of a recording what changes no class."""
    tails = _take_tails(recorded.graph)
    shifted = _take_shifts(recorded.graph)
    return LeftOut(tails, shifted, all(map(_is_shift, tails)) and _take_norm(recorded.graph))


def _end(graph: fx.Graph) -> tuple[fx.Node, fx.Node | None]:
    """The output of the graph, and the operation whose result it is."""
    (end,) = (node for node in graph.nodes if node.op == "output")
    result = end.args[0]
    last = result[0] if isinstance(result, list | tuple) else result
    return end, last if isinstance(last, fx.Node) and last.op == "call_function" else None


def _take_tails(graph: fx.Graph) -> list[Tail]:
    """Cut off what changes no class, from the end on; the last operation comes first in the list."""
    tails: list[Tail] = []
    while True:
        end, last = _end(graph)
        tail = _tail(last) if last is not None else None
        if last is None or tail is None:
            return tails
        end.args = (last.args[0],)
        graph.erase_node(last)
        tails.append(tail)


def _tail(last: fx.Node) -> Tail | None:
    """What an operation on logits does that changes no class, or None."""
    name = name_of(last)
    if name in TAILS and last.args[1] in (1, -1):
        return partial(TAILS[name], dim=1)
    if name not in ("add", "sub") or list(last.args) != last.all_input_nodes or len(last.args) != 2:
        return None
    first, second = (tuple(_shape(node)) for node in last.all_input_nodes[:2])
    return _relative if len(first) == 2 and first[1] > 1 and second == (first[0], 1) else None


def _relative(logits: Tensor) -> Tensor:
    """[B, K], what is left of them if the same number may be added to all logits of an image."""
    return logits - logits.amax(1, keepdim=True)


def _is_shift(tail: Tail) -> bool:
    """Whether it adds one number to all logits of an image."""
    return tail is _relative or getattr(tail, "func", None) is F.log_softmax


def _directions(logits: Tensor) -> Tensor:
    """[B, K], what is left of them if those of an image may be multiplied by a positive number."""
    return logits / logits.abs().amax(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)


def _take_shifts(graph: fx.Graph) -> bool:
    """Leave out log_softmax where only sums, means and multiples by a number follow, as in ensembles."""
    waiting, found = [_end(graph)[1]], False
    while waiting:
        node = waiting.pop()
        if node is None or node.op != "call_function" or len(node.users) != 1:
            continue
        name = name_of(node)
        if name == "_log_softmax" and node.args[1] in (1, -1) and len(_shape(node)) == 2:
            node.replace_all_uses_with(node.all_input_nodes[0])
            found = True
        elif name in ("add", "sub", "neg", "stack") or (name in ("mean", "sum") and node.args[1:2] == ([0],)):
            waiting += [source for source in node.all_input_nodes if name != "stack" or node.args[1:] in ((), (0,))]
        elif name in ("mul", "div") and isinstance(node.args[1], int | float) and not node.kwargs:
            waiting.append(node.all_input_nodes[0])
    return found


def _take_norm(graph: fx.Graph) -> bool:
    """Leave out a division by the norm of the features, if what follows makes of it a factor of all logits.

    So of cosine heads remains <phi, w_k>. Where phi is 0 that is 0 for every class, which no certificate calls right.
    """
    of_images = _of_images(graph)
    node = _end(graph)[1]
    while node is not None and len(node.users) == 1:
        if name_of(node) == "div" and node.args[1] in of_images:
            return _without(graph, node, of_images)
        node = _source(node, of_images)
    return False


def _of_images(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _source(node: fx.Node, of_images: set[fx.Node]) -> fx.Node | None:
    """The one argument that depends on the images, of which the result is a homogeneous function; or None."""
    if node.op != "call_function" or name_of(node) not in HOMOGENEOUS.split() or node.kwargs.get("rounding_mode"):
        return None
    sources = [source for source in node.all_input_nodes if source in of_images]
    one = len(sources) == 1 and (name_of(node) != "div" or sources[0] is node.args[0])
    return sources[0] if one else None


def _without(graph: fx.Graph, division: fx.Node, of_images: set[fx.Node]) -> bool:
    above, below = division.args[:2]
    if not (isinstance(above, fx.Node) and isinstance(below, fx.Node)) or division.kwargs:
        return False
    if _shape(above) != _shape(division) or len(_shape(below)) != len(_shape(above)):
        return False
    chain = _norm(below)
    features = _repeated(chain[-1]) if chain else None
    known: fx.Node | None = above
    while known is not None and known is not features:
        known = _source(known, of_images)
    if known is None:
        return False
    division.replace_all_uses_with(above)
    for node in (division, *chain[:-1]):  # those that write in place would count as used
        if not node.users:
            graph.erase_node(node)
    return True


def _norm(node: fx.Node) -> list[fx.Node]:
    """The operations of max(||phi||, a) + b with b >= 0, from the last on, and then phi; [] if it is none."""
    chain: list[fx.Node] = []
    squared = False
    while node.op == "call_function":
        name, rest = name_of(node).strip("_"), node.args[1:]
        chain.append(node)
        source = node.args[0]
        if not isinstance(source, fx.Node):
            break
        if name in ("linalg_vector_norm", "norm") and not squared and len(rest) > 1:
            return [*chain, source] if _number(rest[0]) >= 1 and _is_last(source, rest[1]) else []
        if name == "sum" and squared and rest and _is_last(source, rest[0]):
            square, power = source.args[:2] if len(source.args) > 1 else (None, None)
            right = (name_of(source) == "pow" and power == 2) or (name_of(source) == "mul" and power is square)
            return [*chain, source, square] if isinstance(square, fx.Node) and right else []
        if name == "sqrt" and not squared:
            squared = True
        elif not _keeps_sign(node):
            break
        node = source
    return []


def _keeps_sign(node: fx.Node) -> bool:
    """Whether numbers >= 0 stay so, positive ones positive, and those of an image that are equal, equal."""
    name, rest = name_of(node).strip("_"), node.args[1:]
    if node.kwargs or any(_shape(other).numel() != 1 for other in node.all_input_nodes[1:]):
        return False
    if name in ("clamp", "add"):
        return len(rest) == 1 if name == "clamp" else _number(rest[0]) >= 0
    return name in ("expand", "clone", "clamp_min", "unsqueeze")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else -1.0


def _shape(node: fx.Node) -> torch.Size:
    """(0,) of what is no tensor, or not known."""
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else torch.Size((0,))


def _is_last(node: fx.Node, dims: object) -> bool:
    """Whether the dimensions are the last alone, of features [B, ..., D]."""
    size = len(_shape(node))
    return size > 1 and isinstance(dims, list | tuple) and list(dims) in ([-1], [size - 1])


def _repeated(node: fx.Node) -> fx.Node | None:
    """The features [B, D] that are repeated in front of their last dimension; None if they are more than [B, D]."""
    while node.op == "call_function" and name_of(node) in ("expand", "unsqueeze"):
        source = node.all_input_nodes[0]
        new = len(_shape(node)) - len(_shape(source))  # dimensions
        if new and (name_of(node) == "expand" or node.args[1] not in range(1, len(_shape(node)) - 1)):
            return None
        if _shape(node)[-1] != _shape(source)[-1]:
            return None
        node = source
    return node if len(_shape(node)) == 2 else None
