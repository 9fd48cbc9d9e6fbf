"""Input-gradient regularisation against its reference, and the scale of the authors' code."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import MarginbenchError, create


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("target", ["label", "uniform"])
def test_input_gradient_matches_its_reference(name: str, target: str) -> None:
    method, net, batch, ctx = stage(f"input_grad_reg(weight=0.3,target={target})", name=name)
    penalty = reference("input_grad_reg").penalty(net, batch.x, batch.y, uniform=target == "uniform")
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * penalty
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    assert not batch.x.requires_grad


def test_input_gradient_of_a_linear_network() -> None:
    """d CE / d x = W^T (p - e_y)."""
    method = create("input_grad_reg")
    net = a_net(method, "linear")
    batch = a_batch(net)
    weight = net.head.weight / net.normalise.std.item()
    rows = (net(batch.x).softmax(1) - F.one_hot(batch.y, 4)) @ weight
    found = method.loss(net, batch, a_context()).parts["penalty"]
    torch.testing.assert_close(found, rows.square().sum(1).mean().detach(), **EXACT)


def test_scale_of_the_authors_code() -> None:
    """Their factor l on half the squared gradient of the mean loss is weight = l / (2 B)."""
    method, net, batch, ctx = stage(f"input_grad_reg(weight={100 / 24})")
    x = batch.x.clone().requires_grad_()
    risk = F.cross_entropy(net(x), batch.y)
    (gradient,) = torch.autograd.grad(risk, x, create_graph=True)
    assert_same(method.loss(net, batch, ctx).total, risk + 100 * gradient.square().sum() / 2, net)


def test_constant_network_has_no_penalty() -> None:
    method, net, batch, ctx = stage("input_grad_reg")
    with torch.no_grad():
        net.head.weight.zero_()
    assert method.loss(net, batch, ctx).parts["penalty"] == 0


@pytest.mark.parametrize("fields", ["weight=-1", "target=rival"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="input_grad_reg"):
        create(f"input_grad_reg({fields})")
