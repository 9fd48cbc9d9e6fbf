"""Cross-Lipschitz regularisation: the differences between the input gradients of all pairs of logits."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, cross_entropy, param
from marginbench.methods.maths.jacobian import jacobian_rows, vjp


class CrossLipschitz(Method):
    """L = CE(z) + weight R, R = 1/(B K^2) sum_i sum_{l, m} ||g_il - g_im||^2, g_ik = d z_ik / d x_i, logits z [B, K].

    The sum over pairs is 2 (K sum_k ||g_ik||^2 - ||sum_k g_ik||^2) = 2 K ||P J_i||_F^2, with the Jacobian J_i
    [K, C*H*W] and P = I - 1 1^T / K, which takes K backward passes. With n projections R is estimated without bias by
    (1/B) sum_i 2 (K - 1)/(K n) sum_v ||v^T J_i||^2, the v uniform on the unit sphere orthogonal to (1, ..., 1).
    """

    info: ClassVar[Info] = Info(
        key="cross_lipschitz",
        title="Cross-Lipschitz regularisation",
        family="lipschitz",
        paper="Hein, Andriushchenko: Formal Guarantees on the Robustness of a Classifier against Adversarial"
        " Manipulation, NeurIPS 2017, arXiv 1705.08475",
        section="4, Cross-Lipschitz regularisation",
        year=2017,
        claims=("input_margin",),
        neutral={"weight": 0.0},
        needs=frozenset({"input_grad", "second_order"}),
        deviations=(
            "the authors train one hidden layer of smooth units (softplus) without bias, for which the penalty has a"
            " closed form, beside an automatic one for other networks; here it is computed by automatic"
            " differentiation, and for ReLU almost everywhere",
            "gradients are taken with respect to pixels in [0, 1]",
            "the paper's local certificate holds for kernel machines and one hidden layer only and is not offered",
        ),
    )

    weight: float = param(
        0.1, "factor of the penalty", unit="1", source="authors' code", search=(0.001, 0.01, 0.1, 1.0), ge=0
    )
    projections: Annotated[int, Field(ge=1)] | Literal["exact"] = param(
        "exact",
        "exact: K backward passes; or random projections per example",
        unit="-",
        source="section 4",
        search=("exact", 1),
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x = batch.x.detach().requires_grad_()
        logits = as_float(net(x))
        risk = cross_entropy(logits, batch)
        penalty = self._penalty(logits, x, ctx.generator)
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})

    def _penalty(self, logits: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        examples, classes = logits.shape
        if self.projections == "exact":
            rows = jacobian_rows(logits, x)
            return 2 * (rows - rows.mean(1, keepdim=True)).square().sum() / (classes * examples)
        products = [vjp(logits, x, _contrasts(logits, generator)) for _ in range(self.projections)]
        squares = sum((product.square().sum() for product in products), start=logits.new_zeros(()))
        return 2 * (classes - 1) / (classes * self.projections) * squares / examples


def _contrasts(like: Tensor, generator: torch.Generator) -> Tensor:
    """One vector per row of `like` [B, K], uniform on the unit sphere among the vectors that sum to 0."""
    normal = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return F.normalize(normal - normal.mean(1, keepdim=True))
