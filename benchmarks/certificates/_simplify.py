"""Any module as layers that certificates know: a chain of them, with graphs in it where branches part and meet.

Every layer is compared with the operation that it stands for on random images, of which one is also tried alone; the
whole with the network on the images at hand.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from marginbench.benchmarks.certificates import (  # noqa: F401 - they fill RULES
    _curve_rules,
    _linear_rules,
    _order_rules,
    _place_rules,
)
from marginbench.benchmarks.certificates._box import unlimited
from marginbench.benchmarks.certificates._builder import Builder, Data, close, convolution, gap, linear, merged_layer
from marginbench.benchmarks.certificates._call import RULES, Call, unknown
from marginbench.benchmarks.certificates._layers import PerChannel, Reshape, Simple
from marginbench.benchmarks.certificates._record import BATCHES, Unbounded, name_of, record
from marginbench.benchmarks.certificates._tails import leave_out
from marginbench.benchmarks.machine.memory import out_of_memory
from marginbench.methods import Normalise
from marginbench.methods.errors import one_line
from marginbench.methods.maths.rounding import in_reach

# They read the size alone of their first argument.
FILLS = ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", "empty_like", "fill", "copy")
ROUNDING = 0.01  # relative differences below may be rounding in float32
SEVERAL = ("split", "split_with_sizes", "chunk", "unbind")  # whose results are all of use


@torch.no_grad()
def simplified(net: nn.Module, x: Tensor) -> Simple:
    """The same classifier of images in the box [0, 1].

    Left out is what changes no class: softmax, or one number added to all logits, at its end; limits that no such image
    reaches; division by the norm of the features. So logit gaps are the same up to a positive factor for each image.

    Args:
        net: in eval mode.
        x: [B, C, H, W] images on which both are compared.

    Raises:
        Unbounded: an operation has no bound here, or the network is none of one image at a time.
    """
    if isinstance(net, Simple):
        return net
    first, second, images = record(net, x)
    left_out, _ = (leave_out(graph) for graph in (first, second))
    rewriter = _Rewriter(images)
    out = rewriter.run(first, second)
    try:
        found = _chain(rewriter.builder, out)
        rewritten = found(x)
    except Exception as error:  # without a certificate, all else can still be measured
        if out_of_memory(error):
            raise
        raise Unbounded(f"its operations cannot be written as layers ({one_line(error)})") from error
    wanted = net(x.clone())
    if bool(wanted.isnan().any()):
        raise Unbounded("the model gives logits that are not a number for some of the images")
    logits, wanted = left_out.compared(rewritten, wanted)
    near = in_reach(wanted).any(0)  # beside a mask of -1e9 the others would be too small to compare
    if not close(logits, wanted) or not close(logits[:, near], wanted[:, near]):
        words = "the operations recorded give other logits than the model"
        raise Unbounded(words + _by_rounding(logits[:, near], wanted[:, near]))
    return found


def _by_rounding(found: Tensor, wanted: Tensor) -> str:
    near = found.dtype == torch.float32 and gap(found, wanted) < ROUNDING
    return ", perhaps by rounding alone: values far larger than what comes next cancel in float32" if near else ""


class _Rewriter:
    """Goes through two recordings side by side: numbers are computed, operations on images rewritten."""

    def __init__(self, images: tuple[Tensor, Tensor]) -> None:
        self.builder, self.images = Builder(), images
        self.values: tuple[dict[fx.Node, Any], dict[fx.Node, Any]] = ({}, {})
        self.data: dict[fx.Node, Data | Call] = {}  # by nodes of the first

    def run(self, first: fx.GraphModule, second: fx.GraphModule) -> Data:
        for graph in (first, second):
            graph.graph.eliminate_dead_code()
        out: Data | None = None
        for pair in zip(first.graph.nodes, second.graph.nodes, strict=True):
            if pair[0].op == "placeholder":
                self._keep(pair, self.images, self.builder.start(self.images))
            elif pair[0].op == "get_attr":
                self._keep(pair, tuple(_attribute(g, n) for g, n in zip((first, second), pair, strict=True)))
            elif pair[0].op == "call_function":
                if pair[0].users:  # the others write into the images that the model was given
                    self._call(pair)
            else:
                last = pair[0].args[0]
                found = self.data.get(last[0] if isinstance(last, list | tuple) else last)
                out = found if isinstance(found, Data) else None
        if out is None or len(out.shape) != 1:
            raise Unbounded("its logits do not depend on the image, or are not one row for each image")
        return out

    def _keep(self, pair: Sequence[fx.Node], values: Sequence[Any], data: Data | Call | None = None) -> None:
        for store, node, value in zip(self.values, pair, values, strict=True):
            store[node] = value
        if data is not None:
            self.data[pair[0]] = data

    def _call(self, pair: tuple[fx.Node, fx.Node]) -> None:
        node = pair[0]
        out = tuple(
            n.target(*fx.map_arg(n.args, store.__getitem__), **fx.map_arg(n.kwargs, store.__getitem__))  # type: ignore[operator]
            for n, store in zip(pair, self.values, strict=True)
        )
        read: list[fx.Node] = []
        fx.map_arg((node.args[name_of(node) in FILLS :], node.kwargs), read.append)  # of what is filled, nothing
        if not any(source in self.data for source in read):
            self._keep(pair, out)
            return
        if node.target is operator.getitem:
            several = self.data[node.args[0]]  # type: ignore[index]
            assert isinstance(several, Call)
            index: Any = node.args[1]
            if index and several.name not in SEVERAL:
                raise Unbounded(unknown(several.name))
            call = several._replace(out=out, which=index)
        else:
            call = Call(name_of(node), node.target, self._arguments(pair), _options(node), out, self.builder)  # type: ignore[arg-type]
        on_top = call.name == "stack" and call.arguments[0][1] == 0  # a rule for what comes next may know it
        whole = not isinstance(out[0], list | tuple) and not on_top
        self._keep(pair, out, self._rewritten(node, call) if whole else call)

    def _rewritten(self, node: fx.Node, call: Call) -> Data:
        if call.name not in RULES:
            raise Unbounded(unknown(call.name))
        if any(value.ndim == 0 or len(value) != size for value, size in zip(call.out, BATCHES, strict=True)):
            raise Unbounded(
                f"images do not keep a first dimension of their own ({call.name}), as in InstanceNorm, attention,"
                " products by einsum and several views of an image in one batch: that has no sound bound here"
            )
        try:
            data = unlimited(call) or RULES[call.name](call)
        except Unbounded:
            raise
        except Exception as error:  # arguments that nobody thought of
            raise Unbounded(unknown(call.name)) from error
        masks = all(user.op == "output" for user in node.users)  # then -inf is a class that never wins
        if not all(bool((value.isfinite() | (value.isneginf() & masks)).all()) for value in call.out):
            raise Unbounded(f"the model computes values that are infinite or not a number ({call.name.strip('_')})")
        for found, wanted in zip(data.values, call.out, strict=True):
            if not close(found, wanted.to(found)):
                raise Unbounded(f"{unknown(call.name)} as it is used{_by_rounding(found, wanted.to(found))}")
        return data._replace(alone=data.alone and len(node.users) == 1)

    def _arguments(self, pair: tuple[fx.Node, fx.Node]) -> tuple[Sequence[Any], Sequence[Any]]:
        """In the order of the operation's signature, defaults filled in."""
        found = []
        for node, store in zip(pair, self.values, strict=True):
            of_first = dict(zip(node.all_input_nodes, pair[0].all_input_nodes, strict=True))

            def value(n: fx.Node, store: Any = store, of_first: Any = of_first) -> Any:
                data = self.data.get(of_first[n])
                return store[n] if data is None else data

            names = [a for a in _signature(node) if not a.kwarg_only]
            given = dict(zip((a.name for a in names), node.args, strict=False)) | node.kwargs
            values = [fx.map_arg(given[a.name], value) if a.name in given else a.default_value for a in names]
            found.append(values)
        return found[0], found[1]


def _signature(node: fx.Node) -> Any:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise Unbounded(unknown(name_of(node)))
    return schema.arguments


def _options(node: fx.Node) -> dict[str, Any]:
    """Arguments by name alone."""
    options = {a.name: node.kwargs[a.name] for a in _signature(node) if a.kwarg_only and a.name in node.kwargs}
    if any(isinstance(value, fx.Node) for value in options.values()):
        raise Unbounded(unknown(name_of(node)))
    return options


def _attribute(graph: fx.GraphModule, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(graph)


def _chain(builder: Builder, out: Data) -> Simple:
    """The graph as a chain: what lies between two places where one value alone is in use, is one layer."""
    builder.graph.output(out.node)
    for node in reversed(builder.graph.nodes):
        if not node.users and node.op != "output":
            builder.graph.erase_node(node)
    nodes = [node for node in builder.graph.nodes if node.op not in ("placeholder", "output")]
    (start,) = (node for node in builder.graph.nodes if node.op == "placeholder")
    layers: list[nn.Module] = []
    segment: list[fx.Node] = []
    open_users: dict[fx.Node, int] = {start: len(start.users)}
    entry = start
    for node in nodes:
        segment.append(node)
        for source in node.all_input_nodes:
            open_users[source] -= 1
        open_users[node] = len(node.users)
        if [n for n, count in open_users.items() if count > 0] in ([node], []):
            last = builder.root.get_submodule(str(node.target)) if node.op == "call_module" else None
            merged = (
                merged_layer(layers[-1], last)
                if layers and len(segment) == 1 and isinstance(last, PerChannel)
                else None
            )
            if merged is None:
                layers.append(_segment(builder.root, segment, entry, first=not layers))
            else:
                layers[-1] = merged
            segment, entry, open_users = [], node, {node: len(node.users)}
    return Simple(*layers).eval()


def _segment(root: nn.Module, nodes: Sequence[fx.Node], entry: fx.Node, first: bool) -> nn.Module:
    alone = len(nodes) == 1
    layers = {node: _final(root.get_submodule(str(node.target)), first and alone)
              for node in nodes if node.op == "call_module"}  # fmt: skip
    if alone and nodes[0].op == "call_module":
        return layers[nodes[0]]
    graph, holder = fx.Graph(), nn.Module()
    new = {entry: graph.placeholder("x")}
    for node in nodes:
        if node in layers:
            holder.add_module(str(node.target), layers[node])
        new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(new[nodes[-1]])
    return fx.GraphModule(holder, graph)


def _final(layer: nn.Module, on_images: bool) -> nn.Module:
    """Layers as `fold_affine` and auto-LiRPA like them."""
    if isinstance(layer, Reshape) and layer.flattens:
        return nn.Flatten()
    if not isinstance(layer, PerChannel):
        return layer
    scale, shift = layer.scale.double(), layer.shift.double()
    if layer.flat:
        return linear(scale.diag(), shift, layer.scale)
    if on_images and bool((scale != 0).all()):
        return Normalise((-shift / scale).to(layer.scale), (1 / scale).to(layer.scale))
    return convolution(scale.diag()[:, :, None, None], shift, layer.scale)
