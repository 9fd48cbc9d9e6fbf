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
from marginbench.methods.maths.bounds.training import share_param
from marginbench.methods.maths.estimate import advance, estimate, keep_vectors
from marginbench.methods.maths.lipschitz import is_plain, lipschitz_radius


class LMT(Method):
    """L = CE(z + f P), with logits z [B, K] and a penalty P [B, K] on every rival j != y, P_iy = 0.

    variant=basic: P_ij = sqrt(2) c L, L the Lipschitz constant of x -> z in L2: the product over all layers of the
                   largest singular value.
    variant=plus:  P_ij = c L' ||w_j - w_y||, L' the same without the last layer, whose rows are w (LMT++).
    f = 1, or with `gate` f_i = clip(min_{j != y} (z_iy - z_ij) / P_ij, 0, 1), a constant in the backward pass: then
    misclassified examples are not penalised, and others at most up to a tie. c rises linearly from 0 to its value
    until `ramp_end`, a share of the training.

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
        claims=("input_margin", "certified_radius"),
        neutral={"c": 0.0},
        deviations=(
            "basic without a gate is the paper's algorithm; the authors' runs all use plus, and gate it (gate=true)",
            "c is constant, as in the authors' runs on MNIST and, with c = 0.01, on SVHN; with 0.1 and 1 they raise it"
            " in the first 5 of 160 epochs, from 1e-5 and 1e-3: ramp_end=0.03125 does so from 0",
            "c is a length in pixels, so the same c is a stronger demand on smaller images",
            "the power iteration is one explicit step after each update; the authors reuse the gradient of the vector,"
            " which is zero when no example of the batch is penalised",
            "the certificate is for the predicted class, with exact norms of dense layers and Fourier bounds of"
            " convolutions instead of 5000 power iterations plus an error term",
            "batch norm counts with its running statistics; the layers known are in methods/maths/lipschitz.py",
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
        "basic", "penalty by one constant or by class pairs", unit="-", source="section 4", search=("basic", "plus")
    )
    gate: bool = param(False, "penalise up to the margin only", unit="-", source="section 4", search=(False, True))
    ramp_end: float = share_param(0.0, "where c is reached; 0: it is constant", "authors' code, MNIST", 0.0, 0.03125)

    def build(self, net: Net, task: Task) -> Net:
        if not is_plain(net.head, nn.Linear):
            raise MarginbenchError(f"lmt needs a linear head, not {type(net.head).__name__}")
        keep_vectors(net, task.input_shape)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        with torch.autocast(logits.device.type, enabled=False):
            penalty = ctx.schedule(lambda: self._weight(ctx.progress)) * self._slopes(net)[batch.y]
            if self.gate:
                penalty = _gate(logits.detach(), penalty.detach(), batch.y) * penalty
            parts = {"penalty": penalty.detach().mean()}
            return Loss(cross_entropy(logits + penalty, batch), parts)

    def after_step(self, net: Net, ctx: Context) -> None:
        with torch.autocast(ctx.device.type, enabled=False):
            advance(net)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        if norm != "l2":
            return NotApplicable("the Lipschitz bound is for l2 only")
        return lipschitz_radius(net.decision_net(), x)

    def _weight(self, progress: float) -> float:
        return self.c * min(progress / self.ramp_end, 1.0) if self.ramp_end > 0 else self.c

    def _slopes(self, net: Net) -> Tensor:
        """[K, K]: estimate of the Lipschitz constant of z_j - z_y in row y, column j; 0 on the diagonal."""
        lipschitz = estimate(net.normalise) * estimate(net.body)
        weight = net.head.weight
        assert isinstance(weight, Tensor)
        if self.variant == "plus":
            distances: Tensor = torch.linalg.vector_norm(weight[:, None] - weight, dim=2)
            return lipschitz * distances
        lipschitz = lipschitz * estimate(net.head)
        return math.sqrt(2) * lipschitz * (1 - torch.eye(len(weight), dtype=weight.dtype, device=weight.device))


def _gate(logits: Tensor, penalty: Tensor, y: Tensor) -> Tensor:
    """[B, 1] share of the penalty that the margin of each example can bear."""
    gap = logits.gather(1, y[:, None]) - logits
    share = torch.where(gap >= penalty, 1, gap / penalty)  # 1 for y itself, where both are 0
    return share.amin(1, keepdim=True).clamp_min(0)
