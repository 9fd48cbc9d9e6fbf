"""Adversarial Margin Maximization: shrinkage functions of the DeepFool distance as a regulariser."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, cross_entropy, param
from marginbench.methods.maths.perturb import differentiable_deepfool, eval_mode, l2_norms

_LARGEST = 50.0  # limit of the growing shrinkage functions


class AMM(Method):
    """L = CE(z) + weight (1/B) [sum_{i in T} s(n_i) + sum_{i wrong} t(n_i)], n_i = ||r_i||_2 in pixels.

    r_i is the L2 DeepFool perturbation of image x_i [C, H, W]: across the nearest boundary of a correct image, back
    to the label for a wrong one. The gradient flows through all its steps. Images on which it fails do not count.

    shrinkage   exp         inverse        linear   margin
    s(n)        exp(-c n)   1 / (1 + c n)  -c n     max(0, c - n)
    t(n)        exp(d n)    1 / (1 - d n)  d n      max(0, c + n)

    aggregation=avg: T holds all correct images of the batch; min: of each class the one with the smallest n_i,
    where that is among the `top_share` of the batch with the smallest n_i.
    """

    info: ClassVar[Info] = Info(
        key="amm",
        title="Adversarial Margin Maximization",
        family="linearization",
        paper="Yan, Guo, Zhang: Adversarial Margin Maximization Networks, TPAMI 2019, arXiv 1911.05916",
        section="3",
        year=2019,
        claims=("input_margin",),
        neutral={"weight": 0.0},
        needs=frozenset({"input_grad", "second_order", "inner_attack"}),
        deviations=(
            "weight 4 and aggregation=avg are chosen on validation images of the digits suite; the authors' recipe"
            " for MNIST is weight 32, c 2, d 1, min, their code's defaults weight 1, c 0.001, d 0.1. min, with few"
            " images of a batch of 64 in T, moved the margins little",
            "3 DeepFool steps among the 3 largest rivals, to save time; the authors take 5 steps among 9 rivals",
            "a wrong image moves back across the most violated plane among the rivals, (z_j - z_y) / ||gradient||; the"
            " authors take the plane of the predicted class",
            "the gradient also flows through the point at which the Jacobian is taken; the authors detach it, the same"
            " for ReLU networks, whose Jacobian is piecewise constant",
            "min is taken over correct images that DeepFool moved across, and all wrong images count; the authors'"
            " min also picks, of each class, the wrong image with the largest n if it is among the largest top_share",
            "growing functions stop at 50; in the code their product with lambda does. Images without gradient do not"
            " move",
        ),
    )

    shrinkage: Literal["exp", "inverse", "linear", "margin"] = param(
        "exp", "s and t", unit="-", source="authors' recipe for MNIST", search=("exp", "inverse", "linear", "margin")
    )
    aggregation: Literal["avg", "min"] = param(
        "avg", "T", unit="-", source="section 3; min: authors' recipe for MNIST", search=("avg", "min")
    )
    weight: float = param(
        4.0, "lambda", unit="1", source="authors' recipe: 32, see deviations", search=(1.0, 4.0, 32.0), ge=0
    )
    c: float = param(
        2.0,
        "slope of s, or the distance wanted for margin",
        unit="1 / pixel, pixels for margin",
        source="authors' recipe for MNIST",
        search=(1.0, 2.0, 4.0),
        ge=0,
    )
    d: float = param(1.0, "slope of t", unit="1 / pixel", source="authors' recipe", search=(0.1, 1.0), ge=0)
    top_share: float = param(
        0.2, "share of the batch that min may choose from", unit="1", source="authors' code", search=(0.2,), gt=0, le=1
    )
    steps: int = param(3, "DeepFool steps", unit="-", source="cheaper than 5, the authors' code", search=(3, 5), ge=1)
    rivals: int = param(
        3,
        "classes considered, by largest logit",
        unit="-",
        source="cheaper than 9, the authors' code",
        search=(3, 9),
        ge=1,
    )
    overshoot: float = param(
        0.02, "share by which a boundary is overshot", unit="1", source="authors' code", search=(0.02,), ge=0
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        risk = cross_entropy(net(batch.x), batch)
        with eval_mode(net):
            r, correct, crossed = differentiable_deepfool(
                net, batch.x, batch.y, steps=self.steps, rivals=self.rivals, overshoot=self.overshoot
            )
        n = l2_norms(r)
        counted = correct & crossed
        if self.aggregation == "min":
            counted = counted & self._smallest(n.detach().masked_fill(~counted, torch.inf), batch.y)
        values = torch.where(counted, self._shrink(n), 0) + torch.where(crossed & ~correct, self._grow(n), 0)
        penalty = values.mean()
        parts = {"risk": risk.detach(), "penalty": penalty.detach(), "distance": n.detach().mean()}
        return Loss(risk + self.weight * penalty, parts)

    def _smallest(self, n: Tensor, y: Tensor) -> Tensor:
        """[B] bool: the smallest n [B] of its class, and among the smallest of the batch."""
        same = torch.where(y[:, None] == y, n, torch.inf)
        count = math.ceil(self.top_share * len(n))
        return (n <= same.amin(1)) & (n <= n.sort().values[count - 1])

    def _shrink(self, n: Tensor) -> Tensor:
        if self.shrinkage == "exp":
            return (-self.c * n).exp()
        if self.shrinkage == "inverse":
            return 1 / (1 + self.c * n)
        return -self.c * n if self.shrinkage == "linear" else F.relu(self.c - n)

    def _grow(self, n: Tensor) -> Tensor:
        if self.shrinkage == "exp":
            return (self.d * n).clamp_max(math.log(_LARGEST)).exp()
        if self.shrinkage == "inverse":
            return 1 / (1 - self.d * n).clamp_min(1 / _LARGEST)
        return self.d * n if self.shrinkage == "linear" else F.relu(self.c + n)
