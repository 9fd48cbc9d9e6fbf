"""Jacobian regularisation: norms of d logits / d input, exact or estimated by random projections."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, class_mask, cross_entropy, param
from marginbench.methods.maths.jacobian import jacobian_rows, unit_vectors, vjp


class JacobianReg(Method):
    """L = CE(z) + weight R, with the Jacobians J_i = d z_i / d x_i [K, C*H*W] of the logits z [B, K].

    form=hoffman: R = 1/2 (1/B) sum_i ||J_i||_F^2.
    form=sqrt:    R = ((1/B) sum_i ||J_i||_F^2)^(1/2), one square root over the batch (Jakubovitz, Giryes).
    form=row:     R = (1/B) sum_i ||J_i[k_i]||^2, a row k_i drawn uniformly for every example and step (Sokolic et al.).

    With n projections the squared Frobenius norm is estimated without bias by (K/n) sum_v ||v^T J_i||^2, the v uniform
    on the unit sphere of R^K and drawn for every example and step. J is taken in pixels of [0, 1].
    """

    info: ClassVar[Info] = Info(
        key="jacobian_reg",
        title="Jacobian regularisation",
        family="lipschitz",
        paper="Hoffman, Roberts, Yaida: Robust Learning with Jacobian Regularization, 2019, arXiv 1908.02729;"
        " sqrt: Jakubovitz, Giryes: Improving DNN Robustness to Adversarial Attacks using Jacobian Regularization,"
        " ECCV 2018, arXiv 1803.08680; row: Sokolic, Giryes, Sapiro, Rodrigues: Robust Large Margin Deep Neural"
        " Networks, IEEE TSP 2017, arXiv 1605.08254",
        section="2.2 and 2.3, algorithm 1",
        year=2019,
        claims=("input_margin",),
        neutral={"weight": 0.0},
        revision=2,
        needs=frozenset({"input_grad", "second_order"}),
        deviations=(
            "J is taken with respect to pixels in [0, 1], the paper's with respect to the preprocessed image: where"
            " preprocessing divides by a standard deviation s, the penalty here is 1/s^2 times the paper's",
            "sqrt: a mean over the batch under the root. The authors penalise one image of a batch, where mean and sum"
            " are the same; a sum would grow with the root of the batch size",
            "sqrt: the authors train with cross-entropy first and add the penalty afterwards; `pretrained` is the first"
            " part's share of the budget. With projections it is the root of an estimate, which is biased",
            "row: a row of the logits' Jacobian with respect to the image; the paper does so for every layer",
        ),
        presets={
            "jacobian_sqrt": {"form": "sqrt", "weight": 0.1, "projections": "exact", "pretrained": 0.5},
            "jacobian_row": {"form": "row"},
        },
    )

    weight: float = param(
        0.01, "factor of the penalty", unit="1", source="authors' code", search=(0.003, 0.01, 0.03, 0.1), ge=0
    )
    projections: Annotated[int, Field(ge=1)] | Literal["exact"] = param(
        1,
        "random projections per example, or exact: all K rows; row needs none",
        unit="-",
        source="section 2.3",
        search=(1, 3),
    )
    form: Literal["hoffman", "sqrt", "row"] = param(
        "hoffman", "penalty of which paper", unit="-", source="section 2.2", search=("hoffman", "sqrt", "row")
    )
    pretrained: float = param(
        0.0,
        "share of the steps with plain cross-entropy first",
        unit="1",
        source="Hoffman: 0; Jakubovitz and Giryes train to the end first",
        search=(0.0, 0.5),
        ge=0,
        lt=1,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        if ctx.stage(lambda: ctx.progress < self.pretrained):
            return super().loss(net, batch, ctx)
        x = batch.x.detach().requires_grad_()  # another tensor object: the batch does not change
        logits = as_float(net(x))
        risk = cross_entropy(logits, batch)
        penalty = self._penalty(logits, x, ctx)
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})

    def _penalty(self, logits: Tensor, x: Tensor, ctx: Context) -> Tensor:
        examples = len(x)
        if self.form == "row":
            return vjp(logits, x, _random_rows(logits, ctx.generator)).square().sum() / examples
        factor, products = self._products(logits, x, ctx)
        if self.form == "sqrt":
            norm: Tensor = (factor / examples) ** 0.5 * torch.linalg.vector_norm(products)  # its gradient at 0 is 0
            return norm
        return factor * products.square().sum() / (2 * examples)

    def _products(self, logits: Tensor, x: Tensor, ctx: Context) -> tuple[float, Tensor]:
        """A factor and a tensor whose squares, summed and multiplied by it, estimate sum_i ||J_i||_F^2."""
        if self.projections == "exact":
            return 1.0, jacobian_rows(logits, x)
        draws = [vjp(logits, x, unit_vectors(logits, ctx.generator)) for _ in range(self.projections)]
        return logits.shape[1] / self.projections, torch.stack(draws)


def _random_rows(like: Tensor, generator: torch.Generator) -> Tensor:
    """A one-hot vector per row of `like` [B, K]."""
    rows = torch.randint(like.shape[1], like.shape[:1], generator=generator, device=generator.device)
    return class_mask(rows, like.shape[1]).to(like)
