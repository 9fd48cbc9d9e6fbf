"""Checks of one evaluation of the loss: what they must not complain of."""

from typing import Any, ClassVar

import torch
from contract_support import Mutant, info
from torch import nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Info, Loss, Net, cross_entropy, param


class Centres(Mutant):
    """L = CE(z, y) + w |phi - c_y|^2, with learnt centres c [K, d], which cross-entropy knows nothing of."""

    info: ClassVar[Info] = info(neutral={"weight": 0.0})
    weight: float = param(0.1, "weight", unit="1", source="-", search=(0.1,))

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.centres = nn.Parameter(torch.randn(task.num_classes, net.head.in_features))
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        phi = net.features(batch.x)
        apart = (phi - net.get_parameter("centres")[batch.y]).square().sum(1).mean()
        return Loss(cross_entropy(net.head(phi), batch) + self.weight * apart)


def test_no_gradient_of_an_extra_weight_is_a_gradient_of_zero() -> None:
    result = run_check("neutral_is_cross_entropy", Centres())
    assert result.status == "passed", result.reason
