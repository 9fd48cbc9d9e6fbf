"""Lipschitz-margin training: cross-entropy of the worst logits that a global Lipschitz bound allows."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    MarginbenchError,
    Method,
    Net,
    Norm,
    NotApplicable,
    Radii,
    Task,
    as_float,
    cross_entropy,
    param,
)
from marginbench.methods._lipschitz import flat, is_plain, layer_bound, lipschitz_radius, walk
from marginbench.methods._operator_norm import apply, power_step

_WARM_UP = 20  # power iterations before the first step


class LMT(Method):
    """L = CE(z + f P), with logits z [B, K] and a penalty P [B, K] on every rival j != y, P_iy = 0.

    variant=basic: P_ij = sqrt(2) c L, L the Lipschitz constant of x -> z in L2: the product over all layers of the
                   largest singular value.
    variant=plus:  P_ij = c L' ||w_j - w_y||, L' the same without the last layer, whose rows are w (LMT++).
    f = 1, or with `gate` f_i = clip(min_{j != y} (z_iy - z_ij) / P_ij, 0, 1), a constant in the backward pass: then
    misclassified examples are not penalised, and others at most up to a tie.

    In training a layer's singular value is ||A v||, v its power iteration vector, kept in the network and advanced
    once after every step; the gradient flows through A. The certificate uses upper bounds in float64 instead.
    """

    info: ClassVar[Info] = Info(
        key="lmt",
        title="Lipschitz-margin training",
        family="certified",
        paper="Tsuzuku, Sato, Sugiyama: Lipschitz-Margin Training: Scalable Certification of Perturbation"
        " Invariance for Deep Neural Networks, NeurIPS 2018, arXiv 1802.04034",
        section="4, algorithm 1; LMT++ in the appendix",
        year=2018,
        neutral={"c": 0.0},
        deviations=(
            "the full penalty is the default, as in the paper; the authors' code gates it (gate=true)",
            "c is constant; on SVHN the authors raise it linearly over the first epochs. It is a length in pixels, so"
            " the same c is a stronger demand on smaller images",
            "the power iteration is one explicit step after each update; the authors reuse the gradient of the vector,"
            " which is zero when no example of the batch is penalised",
            "the certificate is for the predicted class, with exact norms of dense layers and Fourier bounds of"
            " convolutions instead of 5000 power iterations plus an error term",
            "no batch norm, max-pooling or residual sum: the layers known are in methods/_lipschitz.py",
        ),
    )

    c: float = param(
        0.1,
        "L2 radius to be certified",
        unit="pixels of [0, 1]",
        source="section 6, SVHN: 0.1 or 0.01 (MNIST: 1)",
        search=(0.03, 0.1, 0.3, 1.0),
        ge=0,
    )
    variant: Literal["basic", "plus"] = param(
        "basic", "penalty by one constant or per pair of classes", unit="-", source="4", search=("basic", "plus")
    )
    gate: bool = param(False, "limit the penalty to the margin", unit="-", source="code", search=(False, True))

    def build(self, net: Net, task: Task) -> Net:
        if not is_plain(net.head, nn.Linear):
            raise MarginbenchError(f"lmt needs a linear head, not {type(net.head).__name__}")
        weight = net.head.weight
        x = torch.zeros(1, *task.input_shape, dtype=weight.dtype, device=weight.device)
        generator = torch.Generator().manual_seed(0)  # the start hardly matters, the global RNG must stay untouched
        factor, count = torch.ones((), dtype=torch.float64), 0
        with torch.no_grad():
            for layer, inputs in walk(flat(net.normalise, net.body, net.head), x):
                bound = layer_bound(layer, inputs)  # also refuses the layers that have none
                if not isinstance(layer, nn.Linear | nn.Conv2d):
                    factor = factor * bound
                    continue
                v = torch.randn(inputs.shape, generator=generator).to(inputs)
                for _ in range(_WARM_UP):
                    v = power_step(layer, v)
                net.register_buffer(f"lmt_vector_{count}", v)
                count += 1
            net.register_buffer("lmt_factor", factor.to(weight))
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        with torch.autocast(logits.device.type, enabled=False):
            penalty = self.c * self._slopes(net)[batch.y]
            if self.gate:
                penalty = _gate(logits.detach(), penalty.detach(), batch.y) * penalty
            parts = {"penalty": penalty.detach().mean()}
            return Loss(cross_entropy(logits + penalty, batch), parts)

    def after_step(self, net: Net, ctx: Context) -> None:
        with torch.autocast(ctx.device.type, enabled=False):
            for layer, v in _operators(net):
                v.copy_(power_step(layer, v))

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return lipschitz_radius(net, x) if norm == "l2" else NotApplicable("the Lipschitz bound is for l2 only")

    def _slopes(self, net: Net) -> Tensor:
        """[K, K]: estimate of the Lipschitz constant of z_j - z_y in row y, column j; 0 on the diagonal."""
        operators = _operators(net)
        lipschitz = net.get_buffer("lmt_factor")
        for layer, v in operators if self.variant == "basic" else operators[:-1]:
            lipschitz = lipschitz * apply(layer, v).norm()
        weight = operators[-1][0].weight
        if self.variant == "plus":
            distances: Tensor = torch.linalg.vector_norm(weight[:, None] - weight, dim=2)
            return lipschitz * distances
        return math.sqrt(2) * lipschitz * (1 - torch.eye(len(weight), dtype=weight.dtype, device=weight.device))


def _operators(net: Net) -> list[tuple[nn.Linear | nn.Conv2d, Tensor]]:
    """The layers with weights, in order, each with its power iteration vector [1, ...] of unit norm."""
    layers = [layer for layer in flat(net.body, net.head) if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [(layer, net.get_buffer(f"lmt_vector_{i}")) for i, layer in enumerate(layers)]


def _gate(logits: Tensor, penalty: Tensor, y: Tensor) -> Tensor:
    """[B, 1] share of the penalty that the margin of each example can bear."""
    gap = logits.gather(1, y[:, None]) - logits
    share = torch.where(gap >= penalty, 1, gap / penalty)  # 1 for y itself, where both are 0
    return share.amin(1, keepdim=True).clamp_min(0)
