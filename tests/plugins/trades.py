"""TRADES: the risk of an image, and how far the predictions move within the ball."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, cross_entropy, param


class TRADES(Method):
    """L = CE(z(x), y) + beta max_{||x' - x||_inf <= epsilon} KL(p(x) || p(x')), p = softmax(z), images x [B, C, H, W].

    The maximum: from x + 0.001 n, n ~ N(0, I), `steps` steps of length 2.5 epsilon / steps along the sign of the
    gradient, each followed by the projection onto the ball and onto [0, 1].
    """

    info: ClassVar[Info] = Info(
        key="trades",
        title="TRADES",
        family="linearization",
        paper="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between Robustness and"
        " Accuracy, ICML 2019, arXiv 1901.08573",
        section="4, equation 5 and algorithm 1",
        year=2019,
        claims=("input_margin",),
        neutral={"beta": 0.0},
        needs=frozenset({"input_grad", "inner_attack"}),
        deviations=("the ball is that of the suite", "the attack runs in training mode"),
    )

    beta: float = param(6.0, "1 / lambda", unit="1", source="section 5.3: 1/lambda = 6", search=(1.0, 6.0), ge=0)
    steps: int = param(10, "steps", unit="-", source="section 5.3: 10 on CIFAR-10", search=(5, 10), ge=1)

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x, epsilon = batch.x, ctx.task.epsilon["linf"]
        noise = torch.randn(x.shape, generator=ctx.generator, device=ctx.device, dtype=x.dtype)
        z = net(x)
        moved = x + 0.001 * noise
        for _ in range(self.steps):
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(_divergence(z.detach(), net(moved)), moved)
            step = moved.detach() + 2.5 * epsilon / self.steps * gradient.sign()
            moved = torch.clamp(step, x - epsilon, x + epsilon).clamp(0, 1)
        divergence = _divergence(z, net(moved))
        return Loss(cross_entropy(z, batch) + self.beta * divergence, {"divergence": divergence.detach()})


def _divergence(z: Tensor, moved: Tensor) -> Tensor:
    """Mean over the batch of KL(softmax(z) || softmax(moved)), logits [B, K]."""
    return F.kl_div(moved.float().log_softmax(1), z.float().log_softmax(1), reduction="batchmean", log_target=True)
