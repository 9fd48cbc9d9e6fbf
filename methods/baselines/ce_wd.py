"""Cross-entropy with weight decay: one of the baselines of PMM's comparison."""

from typing import Any, ClassVar

from marginbench.methods import Info, Method, Net, param


class CEWeightDecay(Method):
    """L = CE(z) + (decay / 2) sum_l ||W_l||_F^2, logits z [B, K], W_l the weights of layer l, without biases.

    The penalty is left to the optimiser. SGD adds its gradient, decay W_l, to the gradient of the loss. AdamW
    decouples it: W_l <- (1 - lr decay) W_l before each step, which is not the gradient of this L.
    """

    info: ClassVar[Info] = Info(
        key="ce_wd",
        title="Cross-entropy with weight decay",
        family="baselines",
        paper="Krogh, Hertz: A Simple Weight Decay Can Improve Generalization, NIPS 1991; decoupled: Loshchilov,"
        " Hutter: Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101",
        section="2; decoupled: algorithm 2",
        year=1991,
        claims=("accuracy",),
        neutral={"decay": 0.0},
        deviations=(
            "the decay is a multiple of the learning rate, as in PyTorch; in algorithm 2 it is independent of it",
            "AdamW, the default of the suites, decouples the decay from the gradient and multiplies it by the learning"
            " rate of the schedule: values usual for SGD, 1e-4 to 1e-3, would do nothing, and the default would be far"
            " too much for SGD",
            "PMM compares with weight decay without giving its value: the default was chosen among 0.1, 0.3, 1 and 3"
            " on validation images of the digits suite; longer training may want less",
            "biases and other vectors do not decay; the value of the suite, if it sets one, is replaced",
        ),
    )

    decay: float = param(
        1.0,
        "lambda of AdamW; with SGD take about 5e-4",
        unit="1",
        source="validation images of the digits, 4 values, see deviations",
        search=(0.1, 0.3, 1.0, 3.0),
        ge=0,
    )

    def param_groups(self, net: Net) -> list[dict[str, Any]]:
        trained = [p for p in net.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
