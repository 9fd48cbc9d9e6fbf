"""MMA against its reference, and its limits."""

import pytest
import torch
from support import TASK, a_context, a_net, assert_same, reference, stage
from torch import nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Context,
    Task,
    create,
)
from marginbench.methods.maths.perturb import eval_mode, random_start


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_mma_matches_its_reference(norm: str, seed: int) -> None:
    d_max = 2 * TASK.epsilon[norm]  # type: ignore[index]
    method, net, batch, ctx = stage(f"mma(norm={norm})", seed=seed)
    ctx.table("epsilon", 0.0)[::2] = d_max / 2  # half of the examples remember a radius
    radii = ctx.table("epsilon", 0.0)[batch.index].clamp_min(0.1 * d_max).double()
    starts = random_start(batch.x, radii, norm, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    wanted, distances = reference("mma").loss(
        net, batch.x, batch.y, starts, radii,
        d_max=d_max, clean_weight=1 / 3, norm=norm, steps=10, step_scale=2.5, bisections=10,
    )  # fmt: skip
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    found = ctx.table("epsilon", 0.0)[batch.index]
    torch.testing.assert_close(found, torch.tensor(distances, dtype=torch.float32))
    assert 0 < sum(d == 0 for d in distances) < len(distances)


def test_mma_finds_the_margin_of_a_linear_network() -> None:
    task = Task(TASK.input_shape, (12, 12), TASK.epsilon)
    method = create("mma")
    net = a_net(method, "linear", task=task)
    with torch.no_grad():
        net.head.weight.mul_(0.3)
        net.head.bias.mul_(0.1)
    x = 0.4 + 0.2 * torch.rand(24, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    ctx = Context(task, 2, 1, torch.Generator().manual_seed(0))
    method.loss(net, Batch(x, y, torch.arange(24)), ctx)
    gap = (net(x)[:, 0] - net(x)[:, 1]).abs() / ((net.head.weight[0] - net.head.weight[1]) / 0.3).abs().sum()
    near = gap < 1.05 * 0.2
    assert near.sum() > 5
    error = (ctx.table("epsilon", 0.0).double() - gap)[near].abs().max()
    assert error <= 1.05 * 0.2 / 2**10


def test_mma_without_margin_part() -> None:
    method, net, batch, ctx = stage("mma(d_max=0)")
    losses = F.cross_entropy(net(batch.x), batch.y, reduction="none")
    wrong = net(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0] <= 0.5
    assert 0 < wrong.sum() < 12
    assert_same(method.loss(net, batch, ctx).total, losses.mean() / 3 + 2 / 3 * losses[wrong].sum() / 12, net)
    omma = create("mma(d_max=0,clean_weight=0)").loss(net, batch, a_context()).total
    assert_same(omma, losses[wrong].sum() / 12, net)
    y = net(batch.x).argmin(1)  # all wrong
    all_wrong = create("mma").loss(net, Batch(batch.x, y, batch.index), a_context()).total
    assert_same(all_wrong, F.cross_entropy(net(batch.x), y), net)


def test_mma_forgets_the_radius_of_wrong_examples_and_leaves_modes_and_gradients() -> None:
    method, net, batch, ctx = stage("mma")
    net.train()
    net.body[0].eval()
    ctx.table("epsilon", 0.0).fill_(0.07)
    method.loss(net, batch, ctx)
    wrong = net(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0] <= 0.5
    assert not ctx.table("epsilon", 0.0)[batch.index][wrong].any()
    assert bool((ctx.table("epsilon", 0.0)[12:] == 0.07).all())
    assert net.training and not net.body[0].training and net.body[1].training
    assert all(p.grad is None for p in net.parameters())


def test_attack_runs_in_eval_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    seen = []
    net[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    with eval_mode(net):
        net(torch.zeros(1, 2))
    assert seen == [False] and net[1].training
