"""Contractive rectifier networks: hidden layers that cannot stretch distances, below a large-margin output layer."""

from typing import ClassVar, Literal

import torch
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
    NotApplicable,
    Radii,
    Residual,
    Scale,
    Task,
    as_float,
    cross_entropy,
    logit_margin,
    param,
)
from marginbench.methods.maths.lipschitz import flat, is_plain, layer_bound, leaves, lipschitz_radius
from marginbench.methods.maths.perturb import eval_mode


class Contractive(Method):
    """L = R(z) + (decay/2) ||W||_F^2 subject to ||A_l||_2 <= 1 for every hidden layer l; logits z [B, K], W [K, d].

    output=svm: R = (1/B) sum_i max(0, 1 - (z_iy - max_{j != y} z_ij))^2, a squared hinge;  output=ce: cross-entropy.

    After every step A_l, for a convolution its map between images, is divided by max(1, ||A_l||_2), with a bound of the
    norm that holds; in batch norm, which is diagonal, every |gamma_c| is cut to sqrt(var_c + eps), with the running
    variance; a residual sum is halved: the mean of two contractions is one. ReLU does not stretch, so that distances
    between features are at most those between normalised images, and min_j (z_y - z_j) / ||w_y - w_j|| in feature space
    bounds the margin of the normalised image from below.
    """

    info: ClassVar[Info] = Info(
        key="contractive",
        title="Contractive rectifier network",
        family="lipschitz",
        paper="An, Hayat, Khan, Bennamoun, Boussaid, Sohel: Contractive Rectifier Networks for Nonlinear Maximum Margin"
        " Classification, ICCV 2015",
        section="the constraint of the hidden layers; from the abstract and secondary sources",
        year=2015,
        claims=("input_margin", "certified_radius"),
        neutral={"output": "ce", "decay": 0.0},
        deviations=(
            "the paper's own relaxation of the constraint is not reproduced: a layer whose norm exceeds 1 is divided by"
            " it, which is cheaper than clipping its singular values and also covers convolutions",
            "the output layer is one multi-class machine; the squared hinge was chosen here",
            "batch norm and residual sums, which the paper does not have, are made contractions as above; in"
            " training mode batch norm uses the statistics of the batch, with which it may stretch",
            "the normalisation of the pixels, a factor 1/std, comes before the contractive layers; the certificate"
            " counts it",
        ),
    )

    output: Literal["svm", "ce"] = param(
        "svm", "risk of the output layer", unit="-", source="abstract: a linear SVM", search=("svm", "ce")
    )
    decay: float = param(
        1e-3,
        "factor of the output layer's norm",
        unit="1",
        source="validation images of the digits, 3 values, 2 seeds, commit 2952381: best accuracy, by 0.25 points",
        search=(1e-4, 1e-3, 1e-2),
        ge=0,
    )

    def build(self, net: Net, task: Task) -> Net:
        if not is_plain(net.head, nn.Linear):
            raise MarginbenchError(f"contractive needs a linear head, not {type(net.head).__name__}")
        for layer in [layer for layer in net.body.modules() if is_plain(layer, nn.Sequential)]:
            for i, part in enumerate(layer):
                if is_plain(part, Residual):
                    layer[i] = nn.Sequential(part, Scale(0.5))
        with torch.no_grad():
            _contract(net, task)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        weight = net.head.weight
        assert isinstance(weight, Tensor)
        risk = cross_entropy(logits, batch) if self.output == "ce" else _squared_hinge(logits, batch.y)
        norm = weight.square().sum()
        return Loss(risk + self.decay / 2 * norm, {"risk": risk.detach(), "head": norm.detach()})

    def after_step(self, net: Net, ctx: Context) -> None:
        with torch.autocast(ctx.device.type, enabled=False):
            _contract(net, ctx.task)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        if norm != "l2":
            return NotApplicable("the layers are contractions in l2 only")
        return lipschitz_radius(net.decision_net(), x)


def _contract(net: Net, task: Task) -> None:
    """Shorten the hidden weights of layers whose norm exceeds 1; refuse layers without a known norm."""
    weight = net.head.weight
    assert isinstance(weight, Tensor)
    x = weight.new_zeros(1, *task.input_shape)
    with eval_mode(net):  # for the shapes: no running statistics must see these zeros
        for layer, inputs in leaves(flat(net.normalise, net.body), x):
            bound = layer_bound(layer, inputs)
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.div_(torch.as_tensor(bound).clamp_min(1).to(weight))
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                if layer.weight is None or layer.running_var is None:
                    raise MarginbenchError(f"contractive cannot make a contraction of the layer {layer}")
                limit = (layer.running_var + layer.eps).sqrt()
                layer.weight.clamp_(-limit, limit)


def _squared_hinge(logits: Tensor, y: Tensor) -> Tensor:
    """Crammer and Singer's hinge, squared; logits [B, K], labels [B]."""
    return F.relu(1 - logit_margin(logits, y)).square().mean()
