"""Jacobian regularisation: the Frobenius norm of d logits / d input, estimated by random projections."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, cross_entropy, param
from marginbench.methods._jacobian import jacobian_rows, unit_vectors, vjp


class JacobianReg(Method):
    """L = CE(z) + weight R, R = 1/2 (1/B) sum_i ||J_i||_F^2, J_i = d z_i / d x_i [K, C*H*W], logits z [B, K].

    With n projections R is estimated without bias by 1/2 (1/B) sum_i (K/n) sum_v ||v^T J_i||^2, the v uniform on
    the unit sphere of R^K and drawn anew for every example and step. J is taken in pixels of [0, 1].
    """

    info: ClassVar[Info] = Info(
        key="jacobian_reg",
        title="Jacobian regularisation",
        family="lipschitz",
        paper="Hoffman, Roberts, Yaida: Robust Learning with Jacobian Regularization, 2019, arXiv 1908.02729",
        section="2.2 and 2.3, algorithm 1",
        year=2019,
        neutral={"weight": 0.0},
        needs=frozenset({"input_grad", "second_order"}),
        deviations=(
            "J is taken with respect to pixels in [0, 1], the paper's with respect to the preprocessed image: where"
            " preprocessing divides by a standard deviation s, the penalty here is 1/s^2 times the paper's",
        ),
    )

    weight: float = param(
        0.01, "factor of the penalty", unit="1", source="section 3", search=(0.003, 0.01, 0.03, 0.1), ge=0
    )
    projections: Annotated[int, Field(ge=1)] | Literal["exact"] = param(
        1,
        "random projections per example, or exact: all K rows",
        unit="-",
        source="section 2.3",
        search=(1, 3),
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x = batch.x.detach().requires_grad_()  # another tensor object: the batch does not change
        logits = as_float(net(x))
        risk = cross_entropy(logits, batch)
        penalty = self._penalty(logits, x, ctx)
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})

    def _penalty(self, logits: Tensor, x: Tensor, ctx: Context) -> Tensor:
        examples, classes = logits.shape
        if self.projections == "exact":
            return jacobian_rows(logits, x).square().sum() / (2 * examples)
        products = [vjp(logits, x, unit_vectors(logits, ctx.generator)) for _ in range(self.projections)]
        squares = sum((product.square().sum() for product in products), start=logits.new_zeros(()))
        return classes / self.projections * squares / (2 * examples)
