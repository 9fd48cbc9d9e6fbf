"""All-layer margin against its reference, and its limits."""

import pytest
import torch
from support import TASK, a_net, assert_same, reference, stage

from marginbench.methods import MarginbenchError, create


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_one_step_matches_its_reference(name: str) -> None:
    method, net, batch, ctx = stage("all_layer_margin(step=0.2)", name=name)
    wanted = reference("all_layer_margin").loss([net.normalise, *net.body, net.head], batch.x, batch.y, 0.2)
    found = method.loss(net, batch, ctx).total
    assert found > reference("ce").loss(net, batch.x, batch.y)
    assert_same(found, wanted, net)


def test_more_steps_climb_higher_and_leave_the_network_alone() -> None:
    losses, before = [], None
    for steps in (1, 2, 4):
        method, net, batch, ctx = stage(f"all_layer_margin(step=0.02,steps={steps})")
        before = net(batch.x)
        losses.append(method.loss(net, batch, ctx).total.item())
        assert torch.equal(net(batch.x), before)
        assert all(p.grad is None for p in net.parameters())
    assert losses == sorted(losses) and losses[0] < losses[2]


def test_a_network_without_hidden_layers_is_refused() -> None:
    with pytest.raises(MarginbenchError, match="hidden layer"):
        create("all_layer_margin").build(a_net(create("ce"), "linear"), TASK)


@pytest.mark.parametrize("fields", ["step=-1", "steps=0"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="all_layer_margin"):
        create(f"all_layer_margin({fields})")
