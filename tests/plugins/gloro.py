"""GloRo: one more class, which wins wherever the Lipschitz bound certifies nothing."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    MarginbenchError,
    Method,
    Net,
    Norm,
    Normalise,
    NotApplicable,
    Radii,
    Task,
    as_float,
    param,
)

LARGEST = 4096  # inputs of a layer whose matrix is written out


class GloRo(Method):
    """L = CE([z, z_bot], y), z_bot = max_{i != j} z_i + epsilon K_ij, j = argmax z, logits z [B, K].

    K_ij = ||w_i - w_j|| times the product over the layers below the head of their largest singular value, in L2. In
    training that is ||A v||, v the vector of a power iteration that is kept and advanced after every step.
    """

    info: ClassVar[Info] = Info(
        key="gloro",
        title="Globally robust networks",
        family="certified",
        paper="Leino, Wang, Fredrikson: Globally-Robust Neural Networks, ICML 2021, arXiv 2102.08452",
        section="3.1 and 4, equation 4",
        year=2021,
        claims=("input_margin", "certified_radius"),
        neutral="with epsilon = 0 the additional class repeats the second largest logit",
        deviations=("epsilon is the suite's unless set", "the certificate writes the layers' matrices out"),
    )

    epsilon: float | None = param(
        None, "radius; none: the suite's", unit="pixels of [0, 1]", source="section 5", search=(None,), ge=0
    )

    def build(self, net: Net, task: Task) -> Net:
        x = torch.zeros(1, *task.input_shape, dtype=next(net.parameters()).dtype)
        for layer, inputs in _layers(net, x):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                vector = torch.ones_like(inputs) + torch.linspace(0, 1, inputs.numel()).view_as(inputs)
                layer.register_buffer("vector", vector / vector.norm())
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        radius = ctx.task.epsilon["l2"] if self.epsilon is None else self.epsilon
        z, weight = as_float(net(batch.x)), _head(net).weight
        top = z.argmax(1)
        slope = radius * _estimate(net) * _distance(weight[top][:, None], weight)  # [B, K]
        bottom = (z + slope).scatter(1, top[:, None], -torch.inf).amax(1, keepdim=True)
        return Loss(F.cross_entropy(torch.cat([z, bottom], 1), batch.y))

    def after_step(self, net: Net, ctx: Context) -> None:
        for layer in net.body.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                with torch.enable_grad():
                    v = layer.get_buffer("vector").clone().requires_grad_()
                    (forward_back,) = torch.autograd.grad(_product(layer, v).square().sum() / 2, v)
                layer.get_buffer("vector").copy_(forward_back / forward_back.norm().clamp_min(1e-12))

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        if norm != "l2":
            return NotApplicable("the bound is for l2 only")
        constant = x.new_tensor(1 / float(_scale(net)))
        for layer, inputs in _layers(net, x[:1]):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                if inputs.numel() > LARGEST:
                    return NotApplicable(f"a layer has more than {LARGEST} inputs")
                basis = torch.eye(inputs.numel()).to(inputs).view(-1, *inputs.shape[1:])
                constant = constant * torch.linalg.matrix_norm(_product(layer, basis).flatten(1), 2)
        with torch.no_grad():
            z, weight = net(x), _head(net).weight
            top = z.argmax(1, keepdim=True)
            gap = z.gather(1, top) - z - 1e-5 * z.abs().amax()
            radius = gap / (1.0001 * constant * _distance(weight[top], weight)).clamp_min(1e-12)
            return Radii(radius.scatter(1, top, torch.inf).amin(1).clamp_min(0))


def _layers(net: Net, x: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """The layers of the body with what reaches them; refuses those whose constant is not known."""
    with torch.no_grad():
        x = net.normalise(x)
        for layer in net.body:
            if type(layer) not in (nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten):
                raise MarginbenchError(f"gloro does not know the Lipschitz constant of {layer}")
            yield layer, x
            x = layer(x)


def _head(net: Net) -> nn.Linear:
    if not isinstance(net.head, nn.Linear):
        raise MarginbenchError(f"gloro needs a linear head, not {net.head}")
    return net.head


def _scale(net: Net) -> Tensor:
    assert isinstance(net.normalise, Normalise)
    return net.normalise.std.min()


def _product(layer: nn.Linear | nn.Conv2d, v: Tensor) -> Tensor:
    """A v of the layer's linear map."""
    if isinstance(layer, nn.Linear):
        return F.linear(v, layer.weight)
    return F.conv2d(v, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _estimate(net: Net) -> Tensor:
    """The product of the layers' singular values, with gradient."""
    layers = [layer for layer in net.body.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    norms = [_product(layer, layer.get_buffer("vector")).float().norm() for layer in layers]
    return torch.stack(norms).prod() / _scale(net)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| over the last axis, with slope 0 where they are equal."""
    distance: Tensor = (a - b).square().sum(-1).add(1e-12).sqrt()
    return distance
