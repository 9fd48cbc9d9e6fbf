"""Lipschitz bounds of what `_simplify` leaves as several layers: maxima, and branches that meet again."""

import torch
from torch import Tensor, fx, nn

from marginbench.benchmarks.certificates._layers import Largest, Simple
from marginbench.methods.maths.lipschitz import Bounded, layer_bound, pair, zero_padded
from marginbench.methods.maths.operator_norm import convolution_norm, matrix_norm


def with_bounds(net: Simple) -> nn.Sequential:
    """The same layers, those together that have a bound together alone."""
    layers: list[nn.Module] = []
    for layer in net:
        if layers and isinstance(layers[-1], Largest):
            layers[-1] = Maximum(layers[-1], layer)
        else:
            layers.append(_bounded(layer))
    return nn.Sequential(*layers).eval()


def _bounded(layer: nn.Module) -> nn.Module:
    if isinstance(layer, fx.GraphModule):
        return Branches(layer)
    return layer if (kernel := _of_each_channel(layer)) is None else Alike(layer, kernel)


def _of_each_channel(layer: nn.Module) -> Tensor | None:
    """The kernel [n, 1, h, w] of a convolution that does the same in every channel, as pooling does."""
    if type(layer) is not nn.Conv2d or not zero_padded(layer) or isinstance(layer.padding, str):
        return None
    if layer.out_channels % layer.in_channels:
        return None
    blocks = layer.weight.unflatten(0, (layer.in_channels, -1))  # [C, n, C, h, w]
    unit = torch.eye(layer.in_channels, dtype=blocks.dtype, device=blocks.device)
    kernel = blocks[0, :, 0]
    return kernel[:, None] if torch.equal(blocks, unit[:, None, :, None, None] * kernel[:, None]) else None


class Alike(Bounded):
    """A convolution that does the same in every channel: its bound is that of one, which costs a small part."""

    in_words = "a convolution"

    def __init__(self, layer: nn.Module, kernel: Tensor) -> None:
        super().__init__()
        self.layer, self.kernel = layer, kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]

    def lipschitz(self, x: Tensor) -> Tensor:
        size, layer = (x.shape[-2], x.shape[-1]), self.layer
        assert isinstance(layer, nn.Conv2d) and isinstance(layer.padding, tuple)
        return convolution_norm(self.kernel, size, pair(layer.stride), pair(layer.padding))


class Maximum(Bounded):
    """Of every n neighbouring channels the largest is kept, and a linear layer sums them."""

    in_words = "a maximum, as in max pooling"

    def __init__(self, kept: Largest, total: nn.Module) -> None:
        super().__init__()
        self.kept, self.total = kept, total

    def forward(self, x: Tensor) -> Tensor:
        return self.total(self.kept(x))  # type: ignore[no-any-return]

    def lipschitz(self, x: Tensor) -> Tensor | None:
        """||M||, where each channel is M times the maxima: |max a - max b| <= ||a - b||_2."""
        total, count = self.total, self.kept.valid.shape[1]
        if type(total) is not nn.Conv2d or total.kernel_size != (1, 1) or total.stride != (1, 1):
            return None
        groups = total.weight.flatten(1).unflatten(1, (-1, count))
        if not torch.equal(groups, groups[:, :, :1].expand_as(groups)):
            return None
        return matrix_norm(groups[:, :, 0])


class Branches(Bounded):
    """A graph of layers and sums."""

    in_words = "branches that meet again, as residual sums and concatenations do"

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.graph(x)
        return out

    def lipschitz(self, x: Tensor) -> Tensor | float | None:
        """Along each path the product of the layers' bounds, and the sum of those that meet."""
        values: dict[fx.Node, Tensor] = {}
        bounds: dict[fx.Node, Tensor | float] = {}
        kept: dict[fx.Node, Largest] = {}
        for node in self.graph.graph.nodes:
            sources = [source for source in node.args if isinstance(source, fx.Node)]
            if node.op == "placeholder":
                values[node], bounds[node] = x, 1.0
            elif node.op == "call_module":
                layer, source = self.graph.get_submodule(str(node.target)), sources[0]
                values[node] = layer(values[source])
                if isinstance(layer, Largest):
                    bounds[node], kept[node] = bounds[source], layer
                    continue
                known = Maximum(kept[source], layer) if source in kept else _bounded(layer)
                bounds[node] = bounds[source] * layer_bound(known, values[source])
            elif node.target is torch.add and not kept.keys() & set(sources):
                values[node] = values[sources[0]] + values[sources[1]]
                steps = (self._step(*pair) for pair in (sources, sources[::-1]))
                step = next((found for found in steps if found is not None), None)
                together = bounds[sources[0]] + bounds[sources[1]]
                bounds[node] = together if step is None else bounds[step[0]] * step[1]
            else:
                return bounds[sources[0]] if node.op == "output" and sources[0] not in kept else None
        return None

    def _step(self, start: fx.Node, change: fx.Node) -> tuple[fx.Node, Tensor] | None:
        """The start x and the bound of x + W2 relu(W1 x + b), which is often 1, as of sorting two numbers.

        With W2 = E - c W1^T it is x, a step down the convex function c ||relu(W1 x + b)||^2 / 2, and E relu(W1 x + b).
        The gradient of that function is steep by c ||W1||^2 at most, so the bound is max(1, c ||W1||^2 - 1) +
        ||E|| ||W1|| (Meunier et al., ICML 2022, arXiv 2110.12690, with c ||W1||^2 = 2 and E = 0).
        """
        layers, node = [], change
        for kind in (nn.Conv2d | nn.Linear, nn.ReLU, nn.Conv2d | nn.Linear):
            layer = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if not isinstance(layer, kind) or not isinstance(source := node.args[0], fx.Node):
                return None
            layers.append(layer)
            node = source
        second, first = (_as_matrix(layer) for layer in layers[::2])
        if node is not start or type(layers[0]) is not type(layers[2]) or first is None or second is None:
            return None
        steep = matrix_norm(first)
        share = (-(second * first.T).sum() / first.square().sum().clamp_min(1e-300)).clamp_min(0)
        return start, (share * steep**2 - 1).clamp_min(1) + matrix_norm(second + share * first.T) * steep


def _as_matrix(layer: nn.Module) -> Tensor | None:
    """Of a linear layer, or of one that is the same at every pixel: [out, in] float64."""
    if isinstance(layer, nn.Conv2d):
        usual = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
        return layer.weight.double().flatten(1) if usual else None
    return layer.weight.double() if isinstance(layer, nn.Linear) else None
