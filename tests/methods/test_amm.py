"""Adversarial Margin Maximization and its DeepFool against the reference, and where the distance is known."""

from typing import Any

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import nn
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Task, create
from marginbench.methods.maths.perturb import differentiable_deepfool

DEFAULTS: dict[str, Any] = {
    "shrinkage": "exp", "aggregation": "avg", "weight": 4.0, "c": 2.0, "d": 1.0, "top_share": 0.2,
    "steps": 3, "rivals": 3, "overshoot": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"shrinkage": "inverse", "steps": 5, "d": 5.0},
        {"shrinkage": "linear", "rivals": 1, "steps": 1},
        {"shrinkage": "margin", "c": 0.2, "overshoot": 0.1},
        {"aggregation": "min", "top_share": 1.0},
        {"aggregation": "min", "d": 50.0},
    ],
)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_amm_matches_its_reference(changed: dict[str, Any], name: str) -> None:
    fields = {**DEFAULTS, **changed}
    spec = ",".join(f"{field}={value}" for field, value in fields.items())
    method, net, batch, ctx = stage(f"amm({spec})", name=name)
    wanted = reference("amm").loss(net, batch.x, batch.y, **fields)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_linear_shrinkage_is_the_difference_of_the_mean_distances() -> None:
    """On a linear network with two classes the distance is |f| / ||w||, and one step finds it."""
    task = Task(TASK.input_shape, (12, 12), TASK.epsilon)
    method = create("amm(shrinkage=linear,c=1,d=1,weight=3)")
    net = a_net(method, "linear", task=task)
    x, y = a_batch(net).x, torch.arange(12) % 2
    z, w = net(x), (net.head.weight[1] - net.head.weight[0]) / net.normalise.std.item()
    margins = (z[:, 1] - z[:, 0]) * (2 * y - 1) / w.norm()
    assert bool((margins > 0).any()) and bool((margins < 0).any())
    wanted = F.cross_entropy(z, y) - 3 * 1.02 * margins.mean()
    assert_same(method.loss(net, Batch(x, y, torch.arange(12)), a_context()).total, wanted, net)


def test_min_over_distinct_classes_is_avg() -> None:
    net = a_net(create("amm"))
    batch = a_batch(net, count=200)
    label = net(batch.x).argmax(1)
    some = torch.stack([(label == k).nonzero()[0, 0] for k in label.unique()])
    batch = Batch(batch.x[some], label[some], torch.arange(len(some)))
    assert len(some) > 1
    avg, least = (
        create(f"amm(aggregation={a},top_share=1)").loss(net, batch, a_context()).total for a in ("avg", "min")
    )
    assert_same(avg, least, net)


def test_failed_images_do_not_count() -> None:
    method, net, batch, ctx = stage("amm")
    with torch.no_grad():
        net.body[1].weight.zero_()  # no image can be moved
    assert_same(method.loss(net, batch, ctx).total, F.cross_entropy(net(batch.x), batch.y), net)


def test_deepfool_changes_sides_and_overshoots() -> None:
    net = a_net(create("amm"))
    batch = a_batch(net, count=100)
    r, correct, crossed = differentiable_deepfool(net, batch.x, batch.y, steps=8, rivals=3, overshoot=0.02)
    assert torch.equal(correct, net(batch.x).argmax(1) == batch.y)
    assert torch.equal(crossed, (net(batch.x + r).argmax(1) == batch.y) != correct)
    assert crossed.double().mean() > 0.8
    assert not batch.x.requires_grad and all(p.grad is None for p in net.parameters())


def test_regulariser_leaves_batch_norm_alone() -> None:
    method, net, batch, ctx = stage("amm")
    net.body.append(nn.BatchNorm1d(6).double())
    net.train()
    method.loss(net, batch, ctx)
    norm = net.body[-1]
    assert norm.training and int(norm.num_batches_tracked) == 1  # the clean pass


def test_no_division_by_zero_at_distance_zero() -> None:
    method, net, batch, ctx = stage("amm(shrinkage=exp)")
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()
    loss = method.loss(net, batch, ctx).total
    assert bool(loss.isfinite())
    torch.testing.assert_close(loss, torch.tensor(4.0, dtype=torch.float64).log(), **EXACT)


@pytest.mark.parametrize("spec", ["amm(weight=-1)", "amm(steps=0)", "amm(aggregation=max)", "amm(top_share=0)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="amm"):
        create(spec)
