"""Deep Defense against its reference; its DeepFool is tested in test_amm.py."""

from functools import partial

import pytest
import torch
from support import TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Task, create


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(("steps", "d"), [(3, 5.0), (5, 100.0)])
def test_deep_defense_matches_its_reference(name: str, steps: int, d: float) -> None:
    method, net, batch, ctx = stage(f"deep_defense(steps={steps},d={d},c=4)", epoch=3, name=name)
    search = partial(reference("amm").deepfool, steps=steps, rivals=3, overshoot=0.02)
    wanted = reference("deep_defense").loss(net, batch.x, batch.y, deepfool=search, weight=15.0, c=4.0, d=d)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_starts_with_plain_cross_entropy() -> None:
    method, net, batch, ctx = stage("deep_defense(pretrained=0.6)", epoch=2)
    plain = F.cross_entropy(net(batch.x), batch.y)
    assert_same(method.loss(net, batch, ctx).total, plain, net)
    assert method.loss(net, batch, a_context(epoch=3)).total > plain


def test_without_decay_the_penalty_counts_correct_images() -> None:
    method, net, _, ctx = stage("deep_defense(c=0)", epoch=4)
    x = a_batch(net).x
    batch = Batch(x, net(x).argmax(1), torch.arange(12))
    assert_same(method.loss(net, batch, ctx).total, F.cross_entropy(net(x), batch.y) + 15, net)


def test_relative_distance_of_a_linear_network_with_two_classes() -> None:
    method = create("deep_defense(c=3,pretrained=0)")
    net = a_net(method, "linear", task=Task(TASK.input_shape, (12, 12), TASK.epsilon))
    x = a_batch(net).x
    y = net(x).argmax(1)
    z, w = net(x), (net.head.weight[1] - net.head.weight[0]) / net.normalise.std.item()
    rho = 1.02 * (z[:, 1] - z[:, 0]).abs() / w.norm() / x.flatten(1).norm(dim=1)
    wanted = F.cross_entropy(z, y) + 15 * (-3 * rho).exp().mean()
    assert_same(method.loss(net, Batch(x, y, torch.arange(12)), a_context()).total, wanted, net)


def test_a_black_image_has_a_finite_loss() -> None:
    method, net, batch, ctx = stage("deep_defense", epoch=4)
    loss = method.loss(net, Batch(torch.zeros_like(batch.x), batch.y, batch.index), ctx).total
    assert bool(loss.isfinite())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("spec", ["deep_defense(pretrained=1)", "deep_defense(c=-1)", "deep_defense(rivals=0)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="deep_defense"):
        create(spec)
