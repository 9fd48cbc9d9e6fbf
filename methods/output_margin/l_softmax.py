"""L-Softmax: the angle between the feature and the weight of its class is multiplied."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, as_float, cross_entropy, param
from marginbench.methods.maths.angles import bias_free, multiply_target_angle


class LSoftmax(Method):
    """L = CE(z), z_j = ||w_j|| ||phi|| cos(theta_j) for j != y, logits z [B, K], and for the label

    z_y = ||w_y|| ||phi|| (lambda cos(theta_y) + psi(theta_y)) / (1 + lambda),
    psi(theta) = (-1)^k cos(m theta) - 2k on [k pi / m, (k + 1) pi / m], k = 0 .. m - 1,

    with features phi [B, d], class weights w [K, d] and no bias. psi <= cos, with equality at theta = 0 only for
    m > 1; k is a constant in the backward pass. lambda anneals from nearly plain softmax to the full margin:
    annealing=rate:     lambda(t) = max(lambda_min, lambda_peak r(t)), r the learning rate as a share of its peak;
    annealing=progress: lambda(t) = max(lambda_min, lambda_start (1 + gamma t)^-power),
    t in [0, 1) the share of the training done; r = 1 until the peak, and 1 - t where the rate never falls.
    """

    info: ClassVar[Info] = Info(
        key="l_softmax",
        title="L-Softmax (large-margin softmax)",
        family="output_margin",
        paper="Liu, Wen, Yu, Yang: Large-Margin Softmax Loss for Convolutional Neural Networks, ICML 2016,"
        " arXiv 1612.02295",
        section="4.1, equations 4 to 6; annealing: 5.1",
        year=2016,
        revision=2,
        claims=("feature_margin",),
        neutral={"m": 1},
        deviations=(
            "the margin comes as the learning rate falls: at its peak a margin near the full one loses whole classes."
            " ResNet-8, 5,000 CIFAR-10 images of 16x16, 15 epochs, accuracy on 2,000 validation images: 49 % so, 18 %"
            " with annealing=progress, ce 48 %. The authors' rate is a tenth when their lambda is 13.7; so it is here",
            "annealing=progress is the authors' formula over the share of the training; they count iterations: gamma"
            " 0.6 is their 2e-5 times the 30,000 iterations of their CIFAR-10 example",
            "m is that of the authors' CIFAR-10 example; m=4, of their MNIST example, loses up to ten points on the"
            " digits: it drives features to 0, and a network without batch norm stays there",
            "psi is a polynomial in the cosine with a number k of thresholds passed, as in the authors' layer",
        ),
    )

    m: int = param(
        2, "factor on the angle", unit="1", source="authors' CIFAR-10 example", search=(1, 2, 3, 4), ge=1, le=8
    )
    annealing: Literal["rate", "progress"] = param(
        "rate",
        "what lambda falls with",
        unit="-",
        source="validation images of a CIFAR-10 subset, 2 values (see deviations)",
        search=("rate", "progress"),
    )
    lambda_peak: float = param(
        137.0,
        "lambda at the peak of the learning rate, with annealing=rate",
        unit="1",
        source="ten times lambda where the authors' rate falls to a tenth, 1000 (1 + 2e-5 * 5000)^-45 = 13.7; 30 gives"
        " 44 % on the validation images of the deviations, not 49 %",
        search=(30.0, 137.0),
        ge=0,
    )
    lambda_start: float = param(
        1000.0,
        "lambda at the start, with annealing=progress",
        unit="1",
        source="authors' CIFAR-10 example",
        search=(1000.0,),
        ge=0,
    )
    gamma: float = param(
        0.6, "growth over the whole training", unit="1", source="authors' CIFAR-10 example", search=(0.3, 0.6), ge=0
    )
    power: float = param(45.0, "power of the decay", unit="1", source="authors' CIFAR-10 example", search=(45.0,), ge=0)
    lambda_min: float = param(
        0.0, "smallest lambda", unit="1", source="authors' README", search=(0.0, 1.0, 5.0, 10.0), ge=0
    )

    def build(self, net: Net, task: Task) -> Net:
        net.head = bias_free(net.head)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        assert isinstance(net.head, nn.Linear)
        features = as_float(net.features(batch.x))
        with torch.autocast(features.device.type, enabled=False):
            norms: Tensor = torch.linalg.vector_norm(net.head.weight, dim=1)
            lengths = norms[batch.y][:, None] * torch.linalg.vector_norm(features, dim=1, keepdim=True)
            share = ctx.schedule(lambda: 1 / (1 + self._lambda(ctx)))
            logits = multiply_target_angle(net.head(features), lengths, batch.y, self.m, share)
        return Loss(cross_entropy(logits, batch))

    def _lambda(self, ctx: Context) -> float:
        if self.annealing == "rate":
            return max(self.lambda_min, self.lambda_peak * ctx.decay)
        decayed: float = self.lambda_start * (1 + self.gamma * ctx.progress) ** -self.power
        return max(self.lambda_min, decayed)
