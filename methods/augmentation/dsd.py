"""Dense-sparse-dense training: prune by magnitude, train on, restore the pruned weights."""

from functools import partial
from typing import ClassVar

import torch

from marginbench.methods import Batch, Context, Info, Loss, MarginbenchError, Method, Net, Task, param
from marginbench.methods.maths.masks import add_masks, magnitude_mask, masked_weights


class DSD(Method):
    """L = CE(z(x; m * W)), logits z [B, K]; W_l the weights of layer l, masks m_l in {0, 1} of the same shape.

    With t the share of training done:
    dense,  t < prune_at:               m = 1.
    sparse, prune_at <= t < restore_at: m_l = 0 at the round(sparsity n_l) smallest |W_l| of the n_l entries of
                                        layer l as they were at t = prune_at. Those weights are zero, and so are
                                        their gradients, so that the optimiser gathers no momentum for them.
    dense,  restore_at <= t:            m = 1 again, pruned weights start at zero, learning rate times `final_rate`.
    """

    info: ClassVar[Info] = Info(
        key="dsd",
        title="Dense-sparse-dense training",
        family="augmentation",
        paper="Han et al.: DSD: Dense-Sparse-Dense Training for Deep Neural Networks, ICLR 2017, arXiv 1607.04381",
        section="2, algorithm 1",
        year=2017,
        claims=("accuracy", "input_margin"),
        neutral={"sparsity": 0.0, "final_rate": 1.0},
        needs=frozenset({"own_update"}),
        deviations=(
            "one run of the suite's budget holds the three phases; the paper trains each to convergence",
            "the learning rate follows the suite's schedule, in the last phase a tenth of it; in the paper"
            " the sparse phase is at a tenth or hundredth of the first rate, and the last at a tenth of that",
            "all layers are pruned; the paper leaves the first layer of convolutional networks dense",
        ),
    )

    sparsity: float = param(
        0.3,
        "share of the weights of each layer that is zero in the sparse phase",
        unit="1",
        source="section 2: 0.25 to 0.5; section 4: 0.3",
        search=(0.25, 0.3, 0.5, 0.8),
        ge=0,
        lt=1,
    )
    prune_at: float = param(
        0.4,
        "start of the sparse phase",
        unit="share of training",
        source="phases of similar length; 0.3 is the same to 0.1 points on validation images of the digits, 2 seeds,"
        " commit 2952381",
        search=(0.3, 0.4),
        gt=0,
        lt=1,
    )
    restore_at: float = param(
        0.7,
        "end of the sparse phase",
        unit="share of training",
        source="phases of similar length; 0.8 is the same to 0.1 points on validation images of the digits, 2 seeds,"
        " commit 2952381",
        search=(0.6, 0.7, 0.8),
        gt=0,
        le=1,
    )
    final_rate: float = param(
        0.1,
        "factor on the learning rate of the last phase",
        unit="1",
        source="section 2",
        search=(0.1, 1.0),
        gt=0,
        le=1,
    )

    def build(self, net: Net, task: Task) -> Net:
        if self.prune_at >= self.restore_at:
            raise MarginbenchError(f"dsd: prune_at={self.prune_at} must be less than restore_at={self.restore_at}")
        add_masks(net)
        return net

    def update(self, net: Net, batch: Batch, ctx: Context, optimiser: torch.optim.Optimizer) -> Loss:
        if ctx.stage(lambda: ctx.progress >= self.restore_at):
            for group in optimiser.param_groups:
                group["lr"] *= self.final_rate  # the benchmark sets it again before every step
        optimiser.zero_grad(set_to_none=True)
        loss = self.loss(net, batch, ctx)
        loss.total.backward()
        for weight, mask in masked_weights(net):
            if weight.grad is not None:
                weight.grad.mul_(mask)
        optimiser.step()
        return loss

    def after_step(self, net: Net, ctx: Context) -> None:
        prune, restore = (ctx.stage(partial(_passes, ctx, share)) for share in (self.prune_at, self.restore_at))
        for weight, mask in masked_weights(net):
            if prune:
                mask.copy_(magnitude_mask(weight, self.sparsity))
            weight.mul_(mask)
            if restore:
                mask.fill_(1)


def _passes(ctx: Context, share: float) -> bool:
    """This step brings the training past that share."""
    return ctx.step / ctx.steps < share <= (ctx.step + 1) / ctx.steps
