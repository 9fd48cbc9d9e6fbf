"""LDAM: an additive margin on the cosine that is larger for rarer classes, with optional deferred re-weighting."""

from typing import ClassVar

import torch
from torch.nn import functional as F

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, param
from marginbench.methods.maths.angles import CosineHead, subtract_target


class LDAM(Method):
    """L = sum_i c_y CE(z_i) / sum_i c_y, z_j = s cos(theta_j) for j != y and z_y = s (cos(theta_y) - m_y), z [B, K].

    m_j = max_m (min_k n_k / n_j)^(1/4), n_j the training examples of class j: the rarest class has margin max_m.
    c_j = 1, and with beta > 0, once a share `reweight_from` of the training is done (DRW), c_j proportional to
    (1 - beta) / (1 - beta^n_j), with mean 1 over the classes. Features and class weights are normalised, no bias.
    """

    info: ClassVar[Info] = Info(
        key="ldam",
        title="LDAM (label-distribution-aware margin)",
        family="output_margin",
        paper="Cao, Wei, Gaidon, Arechiga, Ma: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,"
        " NeurIPS 2019, arXiv 1906.07413",
        section="3.2, equations 9, 12 and 13; DRW: 3.3, algorithm 1",
        year=2019,
        claims=("feature_margin",),
        neutral={"max_m": 0.0, "beta": 0.0},
        deviations=(
            "made for imbalanced classes: with equal counts it is am_softmax(m=0.5), and DRW changes nothing",
            "DRW starts after 80 % of the training, the authors' epoch 160 of 200; their learning rate, which falls"
            " at that moment, is the benchmark's here",
            "the class weights of DRW are the effective numbers of Cui et al. (CVPR 2019), as in the authors' code;"
            " algorithm 1 weights by 1/n_y",
            "a class without examples counts as one with a single example",
        ),
        presets={"ldam_drw": {"beta": 0.9999}},
    )

    s: float = param(30.0, "scale of the logits", unit="1", source="authors' code", search=(8.0, 16.0, 30.0), gt=0)
    max_m: float = param(
        0.5, "margin of the rarest class", unit="1", source="authors' code", search=(0.1, 0.2, 0.35, 0.5), ge=0
    )
    beta: float = param(
        0.0,
        "of the effective number of examples; 0: no re-weighting",
        unit="1",
        source="Cui et al. 2019; 0.9999 in the authors' code",
        search=(0.0, 0.999, 0.9999),
        ge=0,
        lt=1,
    )
    reweight_from: float = param(
        0.8, "start of re-weighting", unit="share of the training", source="authors' code", search=(0.8,), ge=0, le=1
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = CosineHead.replacing(net.head, self.s)
        counts = torch.tensor(task.class_counts, dtype=torch.float64).clamp_min(1)
        margins = self.max_m * (counts.min() / counts) ** 0.25
        weights = (1 - self.beta) / (1 - self.beta**counts)
        net.register_buffer("ldam_margins", margins.to(net.head.weight))
        net.register_buffer("ldam_weights", (weights / weights.mean()).to(net.head.weight))
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, CosineHead)
        cosine = net.head.cosine(net.features(batch.x))
        margins = net.get_buffer("ldam_margins")[batch.y][:, None]
        late = ctx.stage(lambda: ctx.progress >= self.reweight_from)
        weights = net.get_buffer("ldam_weights") if late else None
        return Loss(F.cross_entropy(self.s * subtract_target(cosine, batch.y, margins), batch.y, weights))
