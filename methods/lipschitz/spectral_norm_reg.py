"""Spectral norm regularisation: the largest singular value of every weight matrix, by power iteration."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, as_float, cross_entropy, param
from marginbench.methods.maths.layers import Weighted, input_sizes, weighted_layers
from marginbench.methods.maths.operator_norm import apply, power_iterate

_WARM_UP = 20  # power iterations before the first step


class SpectralNormReg(Method):
    """L = CE(z) + (weight/2) sum_l sigma_l^2, over all layers with weights, logits z [B, K].

    operator=kernel:      sigma_l is the largest singular value of W_l [out, in], for a convolution [O, C kh kw].
    operator=convolution: that of the linear map between images that the layer computes, strides and padding included.

    sigma_l = ||A_l v_l||, v_l the layer's power iteration vector, kept in the network and advanced once after every
    step. The gradient of sigma^2 / 2 with v fixed is sigma u v^T, where u = A v / sigma.
    """

    info: ClassVar[Info] = Info(
        key="spectral_norm_reg",
        title="Spectral norm regularisation",
        family="lipschitz",
        paper="Yoshida, Miyato: Spectral Norm Regularization for Improving the Generalizability of Deep Learning, 2017,"
        " arXiv 1705.10941",
        section="3, algorithm 1",
        year=2017,
        claims=("accuracy", "input_margin"),
        neutral={"weight": 0.0},
        deviations=(
            "the gradient is that of sigma^2 / 2, as the objective says; an implementation in circulation adds"
            " sigma^2 u v^T, one factor too many",
            "the vectors start with 20 power iterations; the paper starts from a random one",
            "the norm of a kernel matrix is neither the operator norm of the convolution nor a bound on it;"
            " operator=convolution penalises that one. Both ignore the scales of batch norm",
        ),
    )

    weight: float = param(0.01, "factor of the penalty", unit="1", source="section 4", search=(0.001, 0.01, 0.1), ge=0)
    operator: Literal["kernel", "convolution"] = param(
        "kernel", "the matrix of a convolution", unit="-", source="section 3", search=("kernel", "convolution")
    )

    def build(self, net: Net, task: Task) -> Net:
        layers = weighted_layers(net)
        weight = layers[-1].weight
        x = torch.zeros(1, *task.input_shape, dtype=weight.dtype, device=weight.device)
        generator = torch.Generator().manual_seed(0)  # the start hardly matters, but the global RNG must stay untouched
        for i, (layer, size) in enumerate(zip(layers, input_sizes(net, layers, x), strict=True)):
            shape = (1, layer.weight[0].numel()) if self.operator == "kernel" else size
            v = torch.randn(shape, generator=generator).to(weight)
            net.register_buffer(f"spectral_vector_{i}", v / v.norm())
        for _ in range(_WARM_UP):
            self._advance(net)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        risk = cross_entropy(logits, batch)
        with torch.autocast(logits.device.type, enabled=False):
            squares = [self._apply(layer, v).square().sum() for layer, v in _operators(net)]
            penalty = torch.stack(squares).sum() / 2
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})

    def after_step(self, net: Net, ctx: Context) -> None:
        self._advance(net)

    def _advance(self, net: Net) -> None:
        with torch.autocast(net.get_buffer("spectral_vector_0").device.type, enabled=False):
            for layer, v in _operators(net):
                v.copy_(power_iterate(partial(self._apply, layer), v))

    def _apply(self, layer: Weighted, v: Tensor) -> Tensor:
        return v @ layer.weight.flatten(1).T if self.operator == "kernel" else apply(layer, v)


def _operators(net: Net) -> list[tuple[Weighted, Tensor]]:
    """The layers with weights, each with its power iteration vector [1, ...] of unit norm."""
    return [(layer, net.get_buffer(f"spectral_vector_{i}")) for i, layer in enumerate(weighted_layers(net))]
