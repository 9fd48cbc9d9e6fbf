"""Soft-margin softmax, and its ensemble of diverse classifiers on the same features."""

from itertools import combinations
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    MarginbenchError,
    Method,
    Net,
    Task,
    as_float,
    class_mask,
    cross_entropy,
    param,
)


class MSoftmax(Method):
    """L = sum_v CE(z^v - m e_y) + diversity sum_{u < v} HSIC(W^u, W^v), with V linear classifiers W^v [K, d].

    z^v [B, K] are the logits of classifier v on the features phi [B, d], e_y is the unit vector of the label.
    HSIC(W^u, W^v) = (K-1)^-2 tr(G_u H G_v H), G = W W^T [K, K], H = I - 11^T / K: 0 if the classifiers share nothing.
    The network built gives the mean of z^v over the classifiers, without m. One classifier is the M-Softmax, several
    are the EM-Softmax.
    """

    info: ClassVar[Info] = Info(
        key="m_softmax",
        title="Soft-margin softmax",
        family="output_margin",
        paper="Wang, Zhang, Lei, Liu, Guo, Li: Ensemble Soft-Margin Softmax Loss for Image Classification,"
        " IJCAI 2018, arXiv 1805.03922",
        section="soft-margin softmax; ensemble soft-margin softmax",
        year=2018,
        claims=("feature_margin",),
        neutral={"m": 0.0, "classifiers": 1},
        deviations=(
            "logits are not normalised and weights may grow, so training can make up for m, as in the paper; weight"
            " decay, which limits that, belongs to the suite",
            "m, V and diversity were chosen here: the paper's values were not at hand",
            "the classifiers keep the bias of the suite's network; HSIC sees the weights only",
        ),
        presets={"em_softmax": {"classifiers": 2}},
    )

    m: float = param(
        1.0,
        "margin of the label",
        unit="logits",
        source="validation images of the digits, 4 values within 0.5 points, 2 seeds, commit 2952381",
        search=(0.5, 1.0, 2.0, 4.0),
        ge=0,
    )
    classifiers: Annotated[int, Field(ge=1)] = param(
        1, "V; 1: no ensemble", unit="-", source="section on soft-margin softmax: one classifier", search=(1, 2, 4)
    )
    diversity: float = param(
        0.1,
        "weight of HSIC of two classifiers",
        unit="1",
        source="validation images of the digits, 2 values with the same accuracy, 2 seeds, commit 2952381",
        search=(0.1, 1.0),
        ge=0,
    )

    def build(self, net: Net, task: Task) -> Net:
        if self.classifiers > 1:
            net.head = AverageHead(net.head, self.classifiers)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        features = net.features(batch.x)
        members = list(net.head.members) if isinstance(net.head, AverageHead) else [net.head]
        logits = [as_float(member(features)) for member in members]
        margin = self.m * class_mask(batch.y, logits[0].shape[1])
        risk = torch.stack([cross_entropy(z - margin, batch) for z in logits]).sum()
        if len(members) == 1:
            return Loss(risk)
        with torch.autocast(risk.device.type, enabled=False):
            pairs = combinations([_centred_gram(member.get_parameter("weight")) for member in members], 2)
            dependence = torch.stack([_hsic(a, b) for a, b in pairs]).sum()
        return Loss(risk + self.diversity * dependence, {"risk": risk.detach(), "hsic": dependence.detach()})


class AverageHead(nn.Module):
    """Mean of the logits of several linear classifiers; the first is the head that it replaces, the others are new."""

    def __init__(self, head: nn.Module, count: int) -> None:
        super().__init__()
        if not isinstance(head, nn.Linear):
            raise MarginbenchError(f"an ensemble of classifiers replaces a linear head, not {type(head).__name__}")
        shape, kind = (head.in_features, head.out_features, head.bias is not None), head.weight
        new = (nn.Linear(*shape, device=kind.device, dtype=kind.dtype) for _ in range(count - 1))
        self.members = nn.ModuleList([head, *new])

    def forward(self, features: Tensor) -> Tensor:
        """[B, d] features to [B, K] logits."""
        return torch.stack([member(features) for member in self.members]).mean(0)

    def decision_layer(self) -> nn.Linear:
        """The mean of the classifiers as one linear layer, with the same logits."""
        first = self.members[0]
        assert isinstance(first, nn.Linear)
        layer = nn.Linear(first.in_features, first.out_features, first.bias is not None, device="meta")
        for name, _ in first.named_parameters():
            mean = torch.stack([member.get_parameter(name).detach() for member in self.members]).mean(0)
            setattr(layer, name, nn.Parameter(mean))
        return layer


def _centred_gram(weight: Tensor) -> Tensor:
    """H W W^T H [K, K] for W [K, d]."""
    centred = weight - weight.mean(0)
    return centred @ centred.mT


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    """Hilbert-Schmidt independence criterion of two centred Gram matrices [K, K]."""
    return (a * b).sum() / (len(a) - 1) ** 2
