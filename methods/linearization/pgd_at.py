"""Adversarial training: cross-entropy at the worst point that PGD finds within the radius."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Norm, as_float, cross_entropy, param
from marginbench.methods.maths.perturb import eval_mode, pgd, random_start


class PGDAT(Method):
    """L = (1/B) sum_i max_{||delta_i|| <= epsilon} CE(x_i + delta_i), images x [B, C, H, W], x + delta in [0, 1].

    PGD estimates the maximum: from a uniform start in the ball, `steps` steps of length step_scale epsilon / steps
    along the sign of the gradient (L-infinity) or the normalised gradient (L2), each followed by the projection onto
    ball and box.
    """

    info: ClassVar[Info] = Info(
        key="pgd_at",
        title="PGD adversarial training",
        family="linearization",
        paper="Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial"
        " Attacks, ICLR 2018, arXiv 1706.06083",
        section="2, equation 2.1; the attack in 3",
        year=2018,
        claims=("input_margin",),
        neutral={"epsilon": 0.0},
        needs=frozenset({"input_grad", "inner_attack", "epsilon"}),
        deviations=(
            "epsilon defaults to the suite's, and the step is relative to it; with 10 steps both stand in the ratio of"
            " the authors' CIFAR-10 settings (8/255, steps of 2/255; MNIST: 0.3, 40 steps of 0.01)",
            "the attack runs in eval mode; the authors attack the training graph, which matters for batch norm and"
            " dropout",
            "the L2 attack starts uniformly in the ball and is projected onto the ball before the box",
        ),
    )

    norm: Norm = param("linf", "norm of the ball", unit="-", source="section 4", search=("linf", "l2"))
    epsilon: float | None = param(
        None,
        "radius of the ball; none: the suite's",
        unit="pixels of [0, 1]",
        source="section 4: the radius that is evaluated",
        search=(None,),
        ge=0,
    )
    steps: int = param(10, "PGD steps", unit="-", source="authors' code, CIFAR-10", search=(7, 10), ge=1)
    step_scale: float = param(
        2.5,
        "PGD step is this times epsilon / steps",
        unit="1",
        source="authors' code, CIFAR-10: 10 steps of 2/255 for 8/255",
        search=(2.5,),
        gt=0,
    )
    random_start: bool = param(
        True, "start at random in the ball, not at x", unit="-", source="section 4", search=(True,)
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        radius = ctx.task.epsilon[self.norm] if self.epsilon is None else self.epsilon
        epsilon = batch.x.new_full(batch.y.shape, radius)

        def objective(x: Tensor) -> Tensor:
            return F.cross_entropy(as_float(net(x)), batch.y, reduction="none")

        with eval_mode(net):
            if self.random_start:
                start = random_start(batch.x, epsilon, self.norm, ctx.generator)
            else:
                start = torch.zeros_like(batch.x)
            step = self.step_scale / self.steps * epsilon
            delta = pgd(objective, batch.x, start, epsilon=epsilon, step=step, steps=self.steps, norm=self.norm)
        return Loss(cross_entropy(net(batch.x + delta), batch))
