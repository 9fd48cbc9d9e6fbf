"""Large Margin Deep Networks: the linearised distance to the boundary, at the input and at hidden layers."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    MarginbenchError,
    Method,
    Net,
    Norm,
    Task,
    as_float,
    cross_entropy,
    param,
)


class Elsayed(Method):
    """L = c CE(z) + w (1/B) sum_i mean_l agg_j max(0, gamma_l - d_ilj), over layers l and rivals j != y.

    d_ilj = (f_y - f_j) / (1e-6 + ||grad_{h_l} f_y - grad_{h_l} f_j||_q), negative where j wins over y: to first
    order the distance of h_l [B, ...] to the boundary between y and j in the norm whose dual is q. f [B, K] are the
    logits or the probabilities, h_l the image x or what a layer with weights (from the second on) reads. The rivals
    are the top_k largest f_j, agg their worst or their sum.

    norm_gradient=detached: ||.||_q is a constant in the backward pass, as in the paper; full: it is differentiated.
    linf_gradient=mean: in L-infinity, whose dual norm is a sum over the n_l elements of h_l, ||.||_q is divided by n_l.
    d_ilj is n_l times as long, and so is the default gamma_l: large layers count for more.
    """

    info: ClassVar[Info] = Info(
        key="elsayed",
        title="Large Margin Deep Networks",
        family="linearization",
        paper="Elsayed, Krishnan, Mobahi, Regan, Bengio: Large Margin Deep Networks for Classification, NeurIPS 2018,"
        " arXiv 1803.05598",
        section="3, equations 9 and 10",
        year=2018,
        claims=("input_margin",),
        neutral={"weight": 0.0, "ce_weight": 1.0},
        needs=frozenset({"input_grad", "epsilon"}),
        deviations=(
            "gamma defaults to twice the suite's epsilon for every layer and is a hinge that can become inactive; the"
            " authors' code has 10000 (MNIST), which never does, and drops the constant gamma from the value",
            "f are the logits, as in the paper; the authors' code takes probabilities (on=probabilities) and limits d"
            " from below to gamma (1 - clip) with clip 4 (MNIST) or 2, here off",
            "in L-infinity the dual norm is the L1 norm, as in the paper; the authors' code divides it by the number of"
            " elements of the layer (linf_gradient=mean)",
            "the hidden layers are what each layer with weights after the first reads; the authors list them by hand"
            " and weight them, here all count alike",
            "the gradient of one image assumes that the others do not matter: not so with batch norm in train mode",
        ),
    )

    on: Literal["logits", "probabilities"] = param(
        "logits", "f", unit="-", source="section 3; probabilities: authors' code", search=("logits", "probabilities")
    )
    layers: Literal["input", "hidden", "all"] = param(
        "all", "where the distance is measured", unit="-", source="section 4", search=("input", "hidden", "all")
    )
    norm: Norm = param("l2", "norm of the distance; q is its dual", unit="-", source="section 4", search=("l2", "linf"))
    norm_gradient: Literal["detached", "full"] = param(
        "detached",
        "backward pass of the gradient's norm",
        unit="-",
        source="section 4.1; authors' code",
        search=("detached", "full"),
    )
    linf_gradient: Literal["sum", "mean"] = param(
        "sum",
        "over the elements of the gradient in L-infinity; L2 has no choice",
        unit="-",
        source="section 3; mean: authors' code",
        search=("sum", "mean"),
    )
    gamma: float | None = param(
        None,
        "distance wanted; none: twice the suite's epsilon",
        unit="pixels of [0, 1] at the input, units of h_l elsewhere",
        source="validation images of the digits, 3 values in L2, 2 seeds, commit 2952381: between best accuracy (half"
        " of it) and largest margin (twice)",
        search=(None,),
        ge=0,
    )
    clip: float | None = param(
        None,
        "d is at least gamma (1 - clip); none: no limit",
        unit="1",
        source="chosen: off; authors' code: 4 (MNIST), 2",
        search=(None, 4.0),
        gt=0,
    )
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] = param(
        1, "rivals, by largest f_j", unit="-", source="authors' code", search=(1, 3)
    )
    aggregation: Literal["max", "sum"] = param(
        "max", "over the rivals", unit="-", source="section 3", search=("max", "sum")
    )
    weight: float = param(1.0, "w, factor of the margin term", unit="1", source="authors' code", search=(1.0,), ge=0)
    ce_weight: float = param(
        0.0, "c, factor of cross-entropy", unit="1", source="authors' code, MNIST", search=(0.0, 1.0), ge=0
    )

    def build(self, net: Net, task: Task) -> Net:
        if self.layers == "hidden" and len(_weighted(net)) < 2:
            raise MarginbenchError("elsayed(layers=hidden) needs a network with two or more layers with weights")
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits, layers = self._layers(net, batch.x)
        scores = as_float(logits)
        risk = cross_entropy(logits, batch)
        if self.on == "probabilities":
            scores = scores.softmax(1)
        rivals = scores.detach().scatter(1, batch.y[:, None], -torch.inf)
        count = rivals.shape[1] - 1 if self.top_k == "all" else min(self.top_k, rivals.shape[1] - 1)
        gaps = scores.gather(1, batch.y[:, None]) - scores.gather(1, rivals.topk(count, dim=1).indices)
        distances = torch.stack([self._distances(gap, layers) for gap in gaps.unbind(1)], dim=2)  # [L, B, top_k]
        epsilon = ctx.task.epsilon[self.norm]
        wanted = [2 * epsilon * self._size(layer) if self.gamma is None else self.gamma for layer in layers]
        if self.clip is not None:
            lowest = [gamma * (1 - self.clip) for gamma in wanted]
            distances = torch.stack([d.clamp_min(limit) for d, limit in zip(distances, lowest, strict=True)])
        hinge = torch.stack([F.relu(gamma - d) for gamma, d in zip(wanted, distances, strict=True)])
        margin = (hinge.amax(2) if self.aggregation == "max" else hinge.sum(2)).mean()
        parts = {"cross_entropy": risk.detach(), "margin": margin.detach(), "distance": distances.detach().mean()}
        return Loss(self.ce_weight * risk + self.weight * margin, parts)

    def _size(self, layer: Tensor) -> int:
        """What the norm of a gradient with respect to layer [B, ...] is divided by."""
        return layer[0].numel() if self.norm == "linf" and self.linf_gradient == "mean" else 1

    def _layers(self, net: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits [B, K] and the tensors [B, ...] at which distances are measured."""
        layers: list[Tensor] = []
        if self.layers != "hidden":
            x = x.detach().requires_grad_()  # another tensor object: the batch does not change
            layers.append(x)
        later = _weighted(net)[1:] if self.layers != "input" else []
        handles = [layer.register_forward_pre_hook(lambda _, inputs: layers.append(inputs[0])) for layer in later]
        try:
            return net(x), layers
        finally:
            for handle in handles:
                handle.remove()

    def _distances(self, gap: Tensor, layers: list[Tensor]) -> Tensor:
        """gap [B] = f_y - f_j to the distances [L, B]."""
        full = self.norm_gradient == "full"
        gradients = torch.autograd.grad(gap.sum(), layers, retain_graph=True, create_graph=full)
        dual = 1 if self.norm == "linf" else 2
        norms = [torch.linalg.vector_norm(as_float(g).flatten(1), dual, dim=1) / self._size(g) for g in gradients]
        return gap / (torch.stack(norms) + 1e-6)


def _weighted(net: Net) -> list[nn.Module]:
    """The layers of the network with weights, in order."""
    return [module for module in (*net.body, net.head) if any(True for _ in module.parameters())]
