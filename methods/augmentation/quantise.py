"""Quantisation-aware training: weights and activations of a few bits, with straight-through gradients."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from marginbench.methods import Batch, Context, Info, Method, Net, Task, as_float, param

_SMALLEST = 1e-8  # keeps the step of an all-zero tensor above zero
_RATE = 0.05  # of the running maximum


class Quantise(Method):
    """L = CE(z), logits z [B, K] of the network with weights Q(W_l) and activations Q(h), h = ReLU(.), b = `bits`.

    b > 1: Q(w) = d round(w / d), d = max |W_l| / (2^(b-1) - 1);   dQ/dw := 1
           Q(h) = d round(min(h, r) / d), d = r / (2^b - 1);   dQ/dh := 1 where h <= r
           r is the running maximum of h over training batches, one number per layer.
    b = 1: Q(w) = mean |W_l| sign(w);   dQ/dw := 1 where |w| <= 1
           ReLU is replaced by sign(h);   dQ/dh := 1 where |h| <= 1.

    The trained network keeps the rounded activations, and holds Q(W_l) as plain weights.
    """

    info: ClassVar[Info] = Info(
        key="quantise",
        title="Quantisation-aware training",
        family="augmentation",
        paper="Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only"
        " Inference, CVPR 2018, arXiv 1712.05877; 1 bit: Hubara, Courbariaux et al.: Binarized Neural Networks, NeurIPS"
        " 2016 (longer: arXiv 1602.02830)",
        section="3; 1 bit: 1.1 to 1.3",
        year=2018,
        claims=("input_margin",),
        neutral={"bits": 32},
        deviations=(
            "the network is a step function, its gradients are straight-through estimates, in attacks too: white-box"
            " attacks may miss nearer examples, see the doubts of a row. CROWN does not apply to rounded activations",
            "weights have symmetric levels and no zero point; images and logits are not quantised; activations are"
            " quantised from the first step on, not after a delay",
            "1 bit: weights are scaled by their mean size, as in XNOR-Net (arXiv 1603.05279), since the suites'"
            " networks have no batch norm that would do it; they are not clipped to [-1, 1] after a step",
            "layers of the body itself are quantised: in residual networks the branches keep full precision",
        ),
    )

    bits: Literal[32, 8, 4, 2, 1] = param(
        4, "b, bits per number; 32: not quantised", unit="bits", source="section 4.2.4: 4 to 8", search=(8, 4, 2, 1)
    )
    activations: bool = param(
        True, "also quantise activations, not only weights", unit="-", source="section 3.1", search=(True, False)
    )

    def build(self, net: Net, task: Task) -> Net:
        if self.bits == 32:
            return net
        for layer in (*net.body, net.head):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                parametrize.register_parametrization(layer, "weight", _Weight(self.bits))
        if self.activations:
            for index, layer in enumerate(net.body):
                if isinstance(layer, nn.ReLU):
                    net.body[index] = _Sign() if self.bits == 1 else _Activation(self.bits, next(net.parameters()))
        return net

    def finish(self, net: Net, data: Iterable[Batch], ctx: Context) -> Net:
        return self.rebuild(net, ctx.task)

    def rebuild(self, net: Net, task: Task) -> Net:
        for layer in (*net.body, net.head):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return net


class _Weight(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits == 1:
            return _straight_through(weight.abs().mean() * _sign(weight), weight.clamp(-1, 1))
        step = (weight.abs().amax() / (2 ** (self.bits - 1) - 1)).clamp_min(_SMALLEST)
        return _straight_through(step * torch.round(weight / step), weight)


class _Activation(nn.Module):
    largest: Tensor

    def __init__(self, bits: int, like: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("largest", like.detach().new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = as_float(x).relu()
        if self.training:
            with torch.no_grad():
                now = x.amax()
                self.largest.copy_(torch.where(self.largest > 0, torch.lerp(self.largest, now, _RATE), now))
        clipped = torch.where(x > self.largest, self.largest, x)
        step = (self.largest / (2**self.bits - 1)).clamp_min(_SMALLEST)
        return _straight_through(step * torch.round(clipped / step), clipped)


class _Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = as_float(x)
        return _straight_through(_sign(x), x.clamp(-1, 1))


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def _straight_through(value: Tensor, x: Tensor) -> Tensor:
    """`value`, exactly, with the gradient of x."""
    return value.detach() + (x - x.detach())
