"""Input-gradient regularisation: double backpropagation of the cross-entropy."""

from typing import ClassVar, Literal

from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, cross_entropy, param
from marginbench.methods.maths.jacobian import input_gradient


class InputGradReg(Method):
    """L = CE(z) + weight (1/B) sum_i ||d H_i / d x_i||^2, logits z [B, K], images x [B, C, H, W].

    target=label:   H_i = -log p_i[y_i], p_i = softmax(z_i), so that d H_i / d x_i = J_i^T (p_i - e_y).
    target=uniform: H_i = -(1/K) sum_k log p_ik, the cross-entropy with the uniform distribution.

    Both are gradients of one example's loss, not of the batch mean. The authors' code takes 1/2 ||.||^2 of the gradient
    of the batch mean, so that its factor l is weight = l / (2 B) here.
    """

    info: ClassVar[Info] = Info(
        key="input_grad_reg",
        title="Input-gradient regularisation",
        family="lipschitz",
        paper="Ross, Doshi-Velez: Improving the Adversarial Robustness and Interpretability of Deep Neural Networks by"
        " Regularizing their Input Gradients, AAAI 2018, arXiv 1711.09404",
        section="gradient regularization; the uniform target stands beside it",
        year=2018,
        claims=("input_margin",),
        neutral={"weight": 0.0},
        needs=frozenset({"input_grad", "second_order"}),
        deviations=(
            "the penalty is a mean of the examples' squared gradients, with a factor of its own: the authors' 100 to"
            " 100000 at batch size 256, on the gradient of the mean loss, are 0.2 to 195 here; the default lies inside",
            "gradients are taken with respect to pixels in [0, 1]",
        ),
    )

    weight: float = param(
        1.0,
        "factor of the penalty",
        unit="1",
        source="the authors' sweep, 0.2 to 195 after division by 2 B; of 4 values on validation images of the digits, 2"
        " seeds, commit 2952381, the largest that trains",
        search=(0.1, 1.0, 10.0, 100.0),
        ge=0,
    )
    target: Literal["label", "uniform"] = param(
        "label",
        "distribution whose cross-entropy is smoothed",
        unit="-",
        source="section on gradient regularization; uniform: beside it",
        search=("label", "uniform"),
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x = batch.x.detach().requires_grad_()
        logits = as_float(net(x))
        risk = cross_entropy(logits, batch)
        smoothed = len(x) * risk if self.target == "label" else _uniform_risk(logits).sum()
        penalty = input_gradient(smoothed, x).square().sum() / len(x)
        return Loss(risk + self.weight * penalty, {"risk": risk.detach(), "penalty": penalty.detach()})


def _uniform_risk(logits: Tensor) -> Tensor:
    """[B, K] to [B]: cross-entropy with the uniform distribution."""
    return -logits.log_softmax(1).mean(1)
