"""MMA: adversarial training in which every example has its own radius, its distance to the boundary."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Norm, as_float, cross_entropy, param
from marginbench.methods.maths.perturb import eval_mode, pgd, random_start, scale_examples


class MMA(Method):
    """L = c CE(x) + (1 - c) (1/B) [sum_{i in S, eps_i < d_max} CE(x_i + eps_i u_i) + sum_{i not in S} CE(x_i)].

    S holds the examples of the batch with SLM < 0, SLM = log sum_{j != y} exp z_j - z_y (that is, p_y > 1/2).
    eps_i u_i estimates the shortest way to the boundary SLM = 0: u_i is the direction of a PGD attack on SLM within
    the radius that example i had when it was last seen, eps_i the zero of SLM along it, found by bisection in
    [0, 1.05 d_max]. c is `clean_weight`. Examples farther away than d_max contribute nothing to the margin part.
    """

    info: ClassVar[Info] = Info(
        key="mma",
        title="MMA (max-margin adversarial training)",
        family="linearization",
        paper="Ding, Sharma, Lui, Huang: MMA Training: Direct Input Space Margin Maximization through Adversarial"
        " Training, ICLR 2020, arXiv 1812.02637",
        section="2.4 and 3, algorithms 1 and 2",
        year=2020,
        claims=("input_margin",),
        neutral={"clean_weight": 1.0},
        presets={"omma": {"clean_weight": 0.0}},
        needs=frozenset({"input_grad", "inner_attack", "index", "epsilon"}),
        deviations=(
            "d_max defaults to twice the suite's epsilon, the smallest radius of the attack to a share of d_max: the"
            " paper sets both per data set, in other units",
            "attack and bisection both run in eval mode; the authors' bisection runs in train mode, which changes the"
            " running statistics of batch norm. S is taken from the train-mode pass that gives the clean loss",
            "examples outside S reuse the clean pass; the authors pass them again beside the perturbed ones",
            "the L2 attack starts uniformly in the ball and is projected onto the ball before the box",
            "the whole batch is attacked, with the result unused outside S: shapes then never depend on the data,"
            " at the cost of the misclassified share of the batch",
        ),
    )

    norm: Norm = param("linf", "norm of the margin", unit="-", source="section 4", search=("linf", "l2"))
    d_max: float | None = param(
        None,
        "margin beyond which an example is left alone; none: twice the suite's epsilon",
        unit="pixels of [0, 1]",
        source="section 4: 12/255 to 32/255 where 8/255 is evaluated",
        search=(None,),
        ge=0,
    )
    clean_weight: float = param(
        1 / 3, "c, share of the clean loss; 0 is OMMA", unit="1", source="section 3", search=(0.0, 1 / 3), ge=0, le=1
    )
    steps: int = param(10, "PGD steps", unit="-", source="section 4, CIFAR-10 (MNIST: 40)", search=(10,), ge=1)
    step_scale: float = param(
        2.5, "PGD step is this times radius / steps", unit="1", source="authors' code", search=(2.5,), gt=0
    )
    bisections: int = param(10, "halvings along the direction", unit="-", source="authors' code", search=(10,), ge=1)
    min_radius: float = param(
        0.1,
        "smallest radius of the attack, as a share of d_max",
        unit="1",
        source="authors' code: 0.005 for 12/255 (0.11), 0.1 for 0.45 (0.22)",
        search=(0.05, 0.1, 0.25),
        ge=0,
        le=1,
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        d_max = 2 * ctx.task.epsilon[self.norm] if self.d_max is None else self.d_max
        logits = net(batch.x)
        clean = cross_entropy(logits, batch)
        inside = _soft_margin(logits, batch.y) < 0

        memory = ctx.table("epsilon", 0.0)
        last = memory[batch.index].clamp_min(self.min_radius * d_max).to(batch.x.dtype)
        epsilon, direction = self._boundary(net, batch, last, 1.05 * d_max, ctx.generator)
        memory[batch.index] = torch.where(inside, epsilon, 0).to(memory.dtype)

        perturbed = net(batch.x + scale_examples(epsilon, direction))
        counted = inside & (epsilon < d_max)
        margin = torch.where(counted, _cross_entropies(perturbed, batch.y), 0)
        margin = torch.where(inside, margin, _cross_entropies(logits, batch.y)).mean()
        parts = {"clean": clean.detach(), "margin": margin.detach(), "epsilon": epsilon.mean()}
        return Loss(self.clean_weight * clean + (1 - self.clean_weight) * margin, parts)

    def _boundary(
        self, net: Net, batch: Batch, last: Tensor, limit: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """AN-PGD: radii [B] in pixels and directions [B, C, H, W], of at most unit norm. `last` [B]: former radii."""

        def objective(x: Tensor) -> Tensor:
            return _soft_margin(net(x), batch.y)

        with eval_mode(net), torch.no_grad():
            start = random_start(batch.x, last, self.norm, generator)
            step = self.step_scale / self.steps * last
            delta = pgd(objective, batch.x, start, epsilon=last, step=step, steps=self.steps, norm=self.norm)
            direction = scale_examples(1 / (last + 1e-12), delta)
            low, high, epsilon = torch.zeros_like(last), torch.full_like(last, limit), last
            for _ in range(self.bisections):
                x = (batch.x + scale_examples(epsilon, direction)).clamp(0, 1)
                correct = objective(x) < 0
                low, high = torch.where(correct, epsilon, low), torch.where(correct, high, epsilon)
                epsilon = (low + high) / 2
        return epsilon, direction


def _soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """SLM = log sum_{j != y} exp z_j - z_y, logits [B, K], labels [B] to [B]. Negative where p_y > 1/2."""
    logits = as_float(logits)
    rivals = logits.scatter(1, y[:, None], -torch.inf)
    return rivals.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(as_float(logits), y, reduction="none")
