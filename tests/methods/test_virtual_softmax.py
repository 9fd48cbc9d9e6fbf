"""Virtual Softmax against its reference, and the bounds that the virtual class sets."""

import math

import torch
from support import EXACT, assert_same, gradients, reference, stage
from torch import nn

from marginbench.methods import Batch


def test_virtual_softmax_matches_its_reference() -> None:
    method, net, batch, ctx = stage("virtual_softmax")
    assert_same(method.loss(net, batch, ctx).total, reference("virtual_softmax").loss(net, batch.x, batch.y), net)


def test_virtual_softmax_takes_half_of_the_probability() -> None:
    method, net, batch, ctx = stage("virtual_softmax")
    for i in range(len(batch.y)):
        one = Batch(batch.x[i : i + 1], batch.y[i : i + 1], batch.index[i : i + 1])
        assert method.loss(net, one, ctx).total >= math.log(2)


def test_virtual_softmax_reaches_log_2_along_the_class_weight() -> None:
    method, net, _, ctx = stage("virtual_softmax")
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(4, 6, dtype=torch.float64))
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.arange(4)
    loss = method.loss(net, Batch(40 * net.head.weight.detach(), y, y), ctx).total
    torch.testing.assert_close(loss.item(), math.log(2))


def test_virtual_softmax_is_a_mean_over_independent_examples() -> None:
    method, net, batch, ctx = stage("virtual_softmax")
    alone = [
        method.loss(net, Batch(batch.x[i : i + 1], batch.y[i : i + 1], batch.index[i : i + 1]), ctx).total
        for i in range(len(batch.y))
    ]
    assert_same(method.loss(net, batch, ctx).total, torch.stack(alone).mean(), net)


def test_virtual_softmax_is_gone_at_test_time() -> None:
    _, net, batch, _ = stage("virtual_softmax")
    torch.testing.assert_close(net(batch.x), net.features(batch.x) @ net.head.weight.T, **EXACT)
    assert net(batch.x).shape == (12, 4)


def test_virtual_softmax_survives_zero_features() -> None:
    method, net, _, ctx = stage("virtual_softmax")
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.tensor([0, 1])
    loss = method.loss(net, Batch(torch.zeros(2, 6, dtype=torch.float64), y, y), ctx).total
    torch.testing.assert_close(loss.item(), math.log(5))
    assert all(bool(g.isfinite().all()) for g in gradients(loss, net))
