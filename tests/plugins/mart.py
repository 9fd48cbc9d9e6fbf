"""MART: adversarial training that looks at misclassified images more."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, class_mask, param


class MART(Method):
    """L = (1/B) sum_i BCE(p(x'_i), y_i) + weight KL(p(x_i) || p(x'_i)) (1 - p_y(x_i)), p = softmax(z), z [B, K].

    BCE(p, y) = -log p_y - log(1 - max_{j != y} p_j), and x' maximises CE(z(x'), y) within the L-infinity ball of radius
    epsilon and [0, 1]: `steps` steps of length 2.5 epsilon / steps from a uniform start.
    """

    info: ClassVar[Info] = Info(
        key="mart",
        title="Misclassification-aware adversarial training",
        family="linearization",
        paper="Wang, Zou, Yi, Bailey, Ma, Gu: Improving Adversarial Robustness Requires Revisiting Misclassified"
        " Examples, ICLR 2020",
        section="3.3, equation 11",
        year=2020,
        claims=("input_margin",),
        neutral="the boosted cross-entropy has a second term that no setting removes",
        needs=frozenset({"input_grad", "inner_attack"}),
        deviations=("the ball is that of the suite", "the attack runs in training mode"),
    )

    weight: float = param(5.0, "lambda", unit="1", source="section 4.1: 5", search=(1.0, 5.0), ge=0)
    steps: int = param(10, "steps", unit="-", source="section 4.1: 10", search=(5, 10), ge=1)

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        x, epsilon = batch.x, ctx.task.epsilon["linf"]
        start = torch.rand(x.shape, generator=ctx.generator, device=ctx.device, dtype=x.dtype)
        moved = (x + epsilon * (2 * start - 1)).clamp(0, 1)
        for _ in range(self.steps):
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(moved).float(), batch.y), moved)
            step = moved.detach() + 2.5 * epsilon / self.steps * gradient.sign()
            moved = torch.clamp(step, x - epsilon, x + epsilon).clamp(0, 1)
        clean, logs = net(x).float().log_softmax(1), net(moved).float().log_softmax(1)
        boosted = _boosted(logs, batch.y)
        kl = F.kl_div(logs, clean, reduction="none", log_target=True).sum(1)
        doubt = 1 - clean.gather(1, batch.y[:, None])[:, 0].exp()
        return Loss((boosted + self.weight * kl * doubt).mean())


def _boosted(logs: Tensor, y: Tensor) -> Tensor:
    """[B] boosted cross-entropy of log-probabilities [B, K]."""
    rival = logs.masked_fill(class_mask(y, logs.shape[1]), -torch.inf).amax(1)
    return -logs.gather(1, y[:, None])[:, 0] - torch.log1p(-rival.exp().clamp_max(1 - 1e-6))
