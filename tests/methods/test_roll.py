"""ROLL against its reference, and what tells it from MMR."""

import pytest
import torch
from support import TASK, assert_same, reference, stage
from torch import nn

from marginbench.methods import MarginbenchError, Radii


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("top", [1.0, 0.5, 0.001])
def test_roll_matches_its_reference(name: str, top: float) -> None:
    method, net, batch, ctx = stage(f"roll(weight=0.3,hinge=0.7,top={top})", name=name)
    count = max(round(top * (12 if name == "mlp" else 20)), 1)
    wanted = reference("roll").loss(net, batch.x, batch.y, weight=0.3, hinge=0.7, count=count)
    assert_same(method.loss(net, batch, ctx).total, wanted, net, rtol=1e-8, atol=1e-8)


def test_roll_without_hidden_units_is_cross_entropy() -> None:
    method, net, batch, ctx = stage("roll", name="linear")
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)
    assert isinstance(method.certify(net, batch.x, "l2"), Radii)


def test_roll_sees_the_scale_of_a_unit() -> None:
    method, net, batch, ctx = stage("roll(hinge=0.0)")
    before = method.loss(net, batch, ctx).total
    with torch.no_grad():
        net.body[1].weight[2] *= 3
        net.body[1].bias[2] *= 3
        net.body[3].weight[:, 2] /= 3
    assert method.loss(net, batch, ctx).total > before + 1e-3


def test_roll_refuses_unknown_layers() -> None:
    method, net, _, _ = stage("roll")
    net.body.append(nn.Sigmoid())
    with pytest.raises(MarginbenchError, match="Sigmoid"):
        method.build(net, TASK)
