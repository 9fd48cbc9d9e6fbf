"""Cross-entropy with dropout before the last layer: one of the baselines of PMM's comparison."""

from typing import ClassVar

from torch import nn

from marginbench.methods import Info, Method, Net, Task, param


class CEDropout(Method):
    """L = CE(W (m * phi) / (1 - p) + b), features phi [B, d], last layer W [K, d], b [K].

    m [B, d] is drawn for every example and step: 0 with probability p, else 1. Evaluation uses m = 1 - p,
    that is, the logits W phi + b.
    """

    info: ClassVar[Info] = Info(
        key="ce_dropout",
        title="Cross-entropy with dropout",
        family="baselines",
        paper="Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: A Simple Way to Prevent Neural"
        " Networks from Overfitting, JMLR 2014",
        section="4",
        year=2014,
        claims=("accuracy",),
        neutral={"p": 0.0},
        deviations=(
            "only the input of the last layer is dropped; the paper also drops units of other layers, and bounds the"
            " norms of the weights",
            "activations are scaled in training by 1 / (1 - p), not the weights in evaluation by 1 - p: the same"
            " network in expectation",
        ),
    )

    p: float = param(
        0.5, "probability of dropping a feature", unit="1", source="appendix A.4", search=(0.2, 0.5, 0.7), ge=0, lt=1
    )

    def build(self, net: Net, task: Task) -> Net:
        net.body.append(nn.Dropout(self.p))
        return net
