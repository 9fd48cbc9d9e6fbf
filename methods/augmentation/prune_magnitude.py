"""Magnitude pruning: train, set the smallest weights of every layer to zero, train the others on."""

from typing import ClassVar

from marginbench.methods import Context, Info, Method, Net, Task, param
from marginbench.methods.maths.masks import add_masks, magnitude_mask, masked_weights


class PruneMagnitude(Method):
    """L = CE(z(x; m * W)), logits z [B, K]; W_l the weights of layer l, masks m_l in {0, 1} of the same shape.

    m = 1 during the first `dense` share of training. The rest is split into n = `rounds` parts; at the start of
    part r = 1..n, m_l becomes 0 at the round(s_r n_l) smallest |m_l W_l| of the n_l entries of layer l, with

        s_r = 1 - (1 - sparsity)^(r / n)

    so every round removes the same share of what is left; pruned weights stay zero. n = 1 prunes once.
    """

    info: ClassVar[Info] = Info(
        key="prune_magnitude",
        title="Magnitude pruning",
        family="augmentation",
        paper="Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks, NeurIPS"
        " 2015, arXiv 1506.02626",
        section="3; iterated: 3.4",
        year=2015,
        claims=("input_margin",),
        neutral={"sparsity": 0.0},
        deviations=(
            "one run of the suite's budget holds all phases; the paper trains to the end before it prunes, and retrains"
            " with a tenth or hundredth of the learning rate. Here the rate follows the suite's schedule",
            "half of the weights are pruned; the paper prunes 0.89 to 0.92 of far larger networks: on digits 0.8 would"
            " cost about 4 points of accuracy and 0.9 about 30",
            "the same share is pruned in every layer; the paper's threshold is a multiple of the standard"
            " deviation of a layer's weights, chosen per layer by sensitivity, and it adapts dropout",
        ),
    )

    sparsity: float = param(
        0.5,
        "share of the weights of each layer that ends at zero",
        unit="1",
        source="validation images of the digits, 3 values, see deviations",
        search=(0.5, 0.8, 0.9),
        ge=0,
        lt=1,
    )
    dense: float = param(
        0.3,
        "share of training before the first pruning",
        unit="1",
        source="validation images of the digits, 2 values, 2 seeds, commit 2952381: best accuracy, by 0.5 points",
        search=(0.3, 0.5),
        gt=0,
        lt=1,
    )
    rounds: int = param(
        3, "n, number of prunings", unit="-", source="section 3.4, without a number", search=(1, 3, 10), ge=1
    )

    def build(self, net: Net, task: Task) -> Net:
        add_masks(net)
        return net

    def after_step(self, net: Net, ctx: Context) -> None:
        due = ctx.stage(lambda: self._due(ctx))
        for weight, mask in masked_weights(net):
            if due:
                mask.copy_(magnitude_mask(weight, 1 - (1 - self.sparsity) ** (due / self.rounds)))
            weight.mul_(mask)

    def _due(self, ctx: Context) -> int:
        """The number of the pruning that this step ends with; 0 for none."""
        now = self._round((ctx.step + 1) / ctx.steps)
        return now if now > self._round(ctx.step / ctx.steps) else 0

    def _round(self, progress: float) -> int:
        """Prunings that are due after this share of training."""
        part = (progress - self.dense) / (1 - self.dense) * self.rounds + 1e-9  # rounding must not delay a step
        return 0 if part < 0 else min(int(part) + 1, self.rounds)
