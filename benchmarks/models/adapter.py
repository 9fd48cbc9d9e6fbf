"""Any module as a `Net`, which attacks, certificates and doubts need of a network that was not built here."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from marginbench.benchmarks.certificates._fold import fold_affine
from marginbench.benchmarks.certificates.crown import ibp
from marginbench.benchmarks.estimator import Query
from marginbench.methods import Net
from marginbench.methods.errors import one_line


class Copied(nn.Identity):
    """A copy of the images, in the layout of a new tensor.

    For models that write into their input, and for `view` behind a convolution: images of one channel may count as
    channels_last, and convolutions would answer in that layout.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.clone(memory_format=torch.contiguous_format)


class Layers(Net):
    """A body of well-known layers only: certificates need no copy of the images."""

    def decision_net(self) -> nn.Sequential:
        return nn.Sequential(*(layer for layer in super().decision_net() if not isinstance(layer, Copied)))


class Guarded(nn.Module):
    """A layer of which nothing is known.

    Certificates follow a trace of it, and a trace keeps one branch of an `if` on the data, and sometimes the size of
    the batch: bounds on it would be wrong. So they get the graph of torch.fx, which refuses such branches, with batch
    norm merged into convolutions; where no graph can be made, `reason` says why, in place of the certificate.
    """

    def __init__(self, layer: nn.Module, reason: str | None = None) -> None:
        super().__init__()
        self.layer = [layer]  # in a list: a trace must not find its weights beside those of the graph
        self.reason = reason
        self.graph = None
        try:
            self.graph = _flattening(fuse(layer))
        except Exception as error:  # the layer's own code may raise anything on symbols
            self.reason = reason or one_line(error)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        if not torch._C._get_tracing_state():
            out = self.layer[0](x)
        elif self.graph is None or self.reason is not None:
            raise RuntimeError(self.reason)
        else:
            out = self.graph(x)
        return out


def _flattening(graph: Any) -> nn.Module:
    """`x.view(x.size(0), -1)` as `x.flatten(1)`: traced as it is, it would keep the size of the batch."""
    for node in graph.graph.nodes:
        is_view = node.op == "call_method" and node.target in ("view", "reshape")
        if is_view and len(node.args) == 3 and node.args[2] == -1 and isinstance(node.args[1], torch.fx.Node):
            size: Any = node.args[1]
            first = size.args[1:] == (0,)  # x.size(0) or x.shape[0]
            if first and (size.target == "size" or "getitem" in str(size.target)):
                node.target, node.args = "flatten", (node.args[0], 1)
    graph.recompile()
    traced: nn.Module = graph
    return traced


def _trace_problem(net: Net, x: Tensor) -> str | None:
    """Why auto-LiRPA does not bound the network, if so."""
    for layer in net.body:
        if isinstance(layer, Guarded) and layer.reason is not None:
            return layer.reason
    with torch.no_grad():
        label = net(x).argmax(1)
    q = Query(net.decision_net(), x, label, "linf", 1.0, x[:0], torch.Generator(x.device))
    found = ibp(q, rounds=1)
    return found.reason if found.lower is None else None


def adapt(model: nn.Module, normalise: nn.Module, x: Tensor) -> Net:
    """A `Net` with the logits of the model behind the normalisation.

    The layers of an nn.Sequential, and of those inside it, become the body and a last linear layer the head: bounds
    see them one by one, and features are what enters the head. Any other module is a body of one layer.

    Args:
        model: in eval mode, with frozen parameters.
        x: some images, on which the `Net` must agree with the model, and the graph for certificates with the `Net`.
    """
    if isinstance(model, Net):
        head, layers = model.head, [model.normalise, *model.body]
    else:
        layers = list(_layers(model))
        head = layers.pop() if layers and isinstance(layers[-1], nn.Linear) else nn.Identity()
    with torch.no_grad():
        wanted = model(Copied()(normalise(x)))
    found: Net | None = None
    problem = "its logits change from call to call"
    for parts, last in ((map(_guarded, layers), head), ([Guarded(nn.Sequential(*layers))], head)):
        net = Net(normalise, nn.Sequential(Copied(), *parts), last).eval()
        with torch.no_grad():
            if not torch.allclose(net(x), wanted, rtol=1e-4, atol=1e-5, equal_nan=True):
                continue
        if fold_affine(net.decision_net(), x, 2**20) is not None:
            return Layers(normalise, net.body, last).eval()
        trouble = _trace_problem(net, x)
        if trouble is None:
            return net
        if found is None:
            found, problem = net, trouble
    found = found or Net(normalise, nn.Sequential(Copied(), Guarded(model)), nn.Identity())
    found.body[0] = Guarded(Copied(), problem)
    return found.eval()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential) and _is_unhooked(module):
        for child in module:  # a module that stands in two places comes twice
            yield from _layers(child)
    else:
        yield module


def _is_unhooked(module: nn.Sequential) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module).forward is nn.Sequential.forward and not hooks


def _guarded(layer: nn.Module) -> nn.Module:
    known = type(layer).__module__.startswith(("torch.nn.modules.", "marginbench."))
    return layer if known else Guarded(layer)
