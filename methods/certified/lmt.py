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
from marginbench.methods.maths.estimate import Variances, advance, batch_variances, estimate, keep_vectors
from marginbench.methods.maths.lipschitz import is_plain, lipschitz_radius


class LMT(Method):
    """L = CE(z + f P), with logits z [B, K] and a penalty P [B, K] on every rival j != y, P_iy = 0.

    variant=plus:  P_ij = c L ||w_j - w_y||, L the Lipschitz constant of x -> features in L2: the product over all
                   layers but the last, whose rows are w, of the largest singular value (LMT++).
    variant=basic: P_ij = sqrt(2) c L', L' the same with the last layer.
    With `gate` f_i = clip(min_{j != y} (z_iy - z_ij) / P_ij, 0, 1), a constant in the backward pass: then misclassified
    examples are not penalised, and others at most up to a tie. Without, f = 1. c rises linearly from 0 to its value
    until `ramp_end`, a share of the training.

    In training a layer's singular value is ||A v||, v its power iteration vector, kept in the network and advanced
    once after every step; the gradient flows through A. A batch norm behind a convolution belongs to A, as a factor
    |gamma| / sqrt(variance + eps) per channel; elsewhere its largest factor counts. The variance is that of the batch,
    and the gradient flows through it, too: L is that of the function whose logits the loss sees. The certificate uses
    upper bounds in float64 and running statistics instead.
    """

    info: ClassVar[Info] = Info(
        key="lmt",
        title="Lipschitz-margin training",
        family="certified",
        paper="Tsuzuku, Sato, Sugiyama: Lipschitz-Margin Training: Scalable Certification of Perturbation"
        " Invariance for Deep Neural Networks, NeurIPS 2018, arXiv 1802.04034",
        section="4, algorithm 1; LMT++ in the appendix",
        year=2018,
        revision=2,
        claims=("input_margin", "certified_radius"),
        neutral={"c": 0.0},
        deviations=(
            "the default is what the authors ran (github.com/ytsmiling/lmt): plus, with a gate; the paper's algorithm 1"
            " is variant=basic, gate=false, which diverges on residual networks, where L is 1e8 at the start",
            "c rises from 0 in the first 5 of 160 epochs; the authors start at 1e-5 for c = 0.1 on SVHN and c = 0.01 on"
            " CIFAR-10, at 1e-3 for c = 1, and keep c constant on MNIST and for c = 0.01 on SVHN: ramp_end=0",
            "c is a length in pixels, so the same c is a stronger demand on smaller images",
            "the power iteration is one explicit step after each update, with the running variances of batch norm; the"
            " authors reuse the gradient of the vector, which is zero when no example of the batch is penalised",
            "the certificate is for the predicted class, with exact norms of dense layers and Fourier bounds of"
            " convolutions instead of 5000 power iterations plus an error term",
            "as with the authors, the factor 1 / (1 - p) of dropout does not count; the layers known are in"
            " methods/maths/lipschitz.py",
        ),
    )

    c: float = param(
        0.1,
        "L2 radius to be certified",
        unit="pixels of [0, 1]",
        source="section 6, SVHN: 0.1 or 0.01 (MNIST: 1; authors' code, CIFAR-10: 0.01)",
        search=(0.01, 0.03, 0.1, 0.3, 1.0),
        ge=0,
    )
    variant: Literal["basic", "plus"] = param(
        "plus",
        "penalty by one constant or by class pairs",
        unit="-",
        source="authors' code: plus in all runs (section 4: basic)",
        search=("basic", "plus"),
    )
    gate: bool = param(
        True,
        "penalise up to the margin only",
        unit="-",
        source="authors' code: in all runs (section 4: no)",
        search=(False, True),
    )
    ramp_end: float = share_param(
        0.03125, "where c is reached; 0: it is constant", "authors' code, SVHN: 5 of 160 epochs", 0.0, 0.03125, 0.25
    )

    def build(self, net: Net, task: Task) -> Net:
        if not is_plain(net.head, nn.Linear):
            raise MarginbenchError(f"lmt needs a linear head, not {type(net.head).__name__}")
        keep_vectors(net, task.input_shape)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        with batch_variances(net) as variances:
            logits = as_float(net(batch.x))
        with torch.autocast(logits.device.type, enabled=False):
            penalty = ctx.schedule(lambda: self._weight(ctx.progress)) * self._slopes(net, variances)[batch.y]
            if self.gate:
                penalty = _gate(logits.detach(), penalty.detach(), batch.y) * penalty
            penalty = penalty.to(logits.dtype)
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

    def _slopes(self, net: Net, variances: Variances) -> Tensor:
        """[K, K] float64: estimate of the Lipschitz constant of z_j - z_y in row y, column j; 0 on the diagonal."""
        lipschitz = estimate(net.normalise, variances) * estimate(net.body, variances)
        weight = net.head.weight
        assert isinstance(weight, Tensor)
        if self.variant == "plus":
            distances: Tensor = torch.linalg.vector_norm(weight[:, None] - weight, dim=2)
            return lipschitz * distances.double()
        lipschitz = lipschitz * estimate(net.head, variances)
        return math.sqrt(2) * lipschitz * (1 - torch.eye(len(weight), dtype=torch.float64, device=weight.device))


def _gate(logits: Tensor, penalty: Tensor, y: Tensor) -> Tensor:
    """[B, 1] share of the penalty that the margin of each example can bear."""
    gap = logits.gather(1, y[:, None]) - logits
    share = torch.where(gap >= penalty, 1, gap / penalty)  # 1 for y itself, where both are 0
    return share.amin(1, keepdim=True).clamp_min(0)
