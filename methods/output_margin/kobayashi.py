"""Large margin in softmax cross-entropy: the probabilities of the rivals are pulled towards each other."""

import math
from typing import ClassVar

from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, as_float, class_mask, cross_entropy, param


class Kobayashi(Method):
    """L = CE(z - deg_logit e_y) + weight R, with logits z [B, K], e_y the unit vector of the label y of example i.

    R = (1/B) sum_i 1/2 sum_{j != y} (q_ij - 1/(K-1)) log q_ij, with q_i the softmax over the K-1 rivals of y.
    It is half the symmetric Kullback-Leibler divergence between q_i and the uniform distribution, and does not
    depend on z_iy: small and equal rivals leave the largest margin at a given cross-entropy.
    """

    info: ClassVar[Info] = Info(
        key="kobayashi",
        title="Large margin in softmax cross-entropy",
        family="output_margin",
        paper="Kobayashi: Large-Margin in Softmax Cross-Entropy Loss, BMVC 2019",
        section="large-margin regulariser; deg_logit: table 4",
        year=2019,
        claims=("feature_margin",),
        neutral={"weight": 0.0, "deg_logit": 0.0},
        deviations=("deg_logit is a number; in the authors' code it is on (1) or off (0)",),
    )

    weight: float = param(
        0.3, "factor of the regulariser", unit="1", source="authors' code", search=(0.1, 0.3, 1.0), ge=0
    )
    deg_logit: float = param(
        0.0, "lowers the logit of the label in training", unit="logits", source="table 4", search=(0.0, 1.0), ge=0
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        logits = as_float(net(batch.x))
        regulariser = _divergence(logits, batch.y[:, None]).mean()
        risk = cross_entropy(logits - self.deg_logit * class_mask(batch.y, logits.shape[1]), batch)
        return Loss(risk + self.weight * regulariser, {"risk": risk.detach(), "regulariser": regulariser.detach()})


def _divergence(logits: Tensor, label: Tensor) -> Tensor:
    """[B] half the symmetric divergence of the rivals' softmax from uniform; 0 for two classes. label [B, 1]."""
    log_q = logits.scatter(1, label, -math.inf).log_softmax(1)
    log_q = log_q.scatter(1, label, 0.0)  # the column of the label now adds (q - 1/(K-1)) 0
    return ((log_q.exp() - 1 / (logits.shape[1] - 1)) * log_q).sum(1) / 2
