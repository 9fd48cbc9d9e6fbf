"""The convex outer polytope against its reference, and where the bound is exact."""

import itertools

import pytest
import torch
from support import TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import Task, create
from marginbench.methods.maths.bounds import path as shared
from marginbench.methods.maths.bounds.linear import Ball, linear_margins, parallel
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.rows import parallel_margins, parallel_relaxations


@pytest.mark.parametrize("name", ["mlp", "cnn", "linear"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.5)])
@pytest.mark.parametrize(("epoch", "share"), [(0, 0.2), (2, 0.84)])
def test_convex_polytope_matches_its_reference(name: str, norm: str, radius: float, epoch: int, share: float) -> None:
    method, net, batch, ctx = stage(f"convex_polytope(norm={norm},start=0.2)", epoch, name=name)
    wanted = reference("convex_polytope").loss(
        batch.x.flatten(1),
        batch.y,
        reference("ibp").matrices(net, (4, 4)),
        epsilon=radius * share,
        norm=norm,
    )
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_convex_polytope_is_exact_without_unstable_units(norm: str) -> None:
    net = a_net(create("convex_polytope"), "mlp")
    x = 0.3 + 0.4 * a_batch(net).x
    y = net(x).argmax(1)
    ball = Ball(x.flatten(1), x.new_full((1, 1), 1e-4), norm)  # type: ignore[arg-type]
    blocks = path_of(net, TASK.input_shape)
    found = linear_margins(blocks, parallel_relaxations(blocks, ball)[0], ball, *specification(net, y))
    for i in range(len(x)):
        image = x[i : i + 1].clone().requires_grad_()
        z = net(image)[0]
        for j in range(4):
            (slope,) = torch.autograd.grad(z[y[i]] - z[j], image, retain_graph=True)
            wanted = z[y[i]] - z[j] - 1e-4 * slope.flatten().norm(p=1 if norm == "linf" else 2)
            torch.testing.assert_close(found[i, j], wanted, rtol=1e-9, atol=1e-9)


def test_convex_polytope_falls_with_the_radius() -> None:
    _, net, batch, ctx = stage("convex_polytope", epoch=4)
    losses = [create(f"convex_polytope(epsilon={e})").loss(net, batch, ctx).total for e in (0.0, 0.01, 0.05, 0.2)]
    assert_same(losses[0], F.cross_entropy(net(batch.x), batch.y), net)
    assert all(a < b for a, b in itertools.pairwise(losses))


def test_convex_polytope_ramp_reaches_its_end() -> None:
    method, net, batch, _ = stage("convex_polytope")
    late = [method.loss(net, batch, a_context(epoch)).total for epoch in (3, 4)]
    assert late[0] == late[1] > method.loss(net, batch, a_context(0)).total


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "linear", "cnn7"])
@pytest.mark.parametrize(("size", "dense"), [((4, 4), 2**20), ((9, 12), 0)])
def test_both_ways_to_the_margins_agree(
    name: str, norm: str, size: tuple[int, int], dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)  # 0: rows of the first convolutions are kept as patches
    task = Task((2, *size), TASK.class_counts, TASK.epsilon)
    net = a_net(create("convex_polytope"), name, task=task)
    x = torch.rand(4, *task.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = path_of(net, task.input_shape)
    for epsilon in (0.0, 0.01, 0.05, 0.3):  # few and many units without a sign
        ball = Ball(x.flatten(1), x.new_full((1, 1), epsilon), norm)  # type: ignore[arg-type]
        problem = (ball, *specification(net, torch.arange(4)))
        wanted = linear_margins(blocks, parallel_relaxations(blocks, ball)[0], *problem)
        assert_same(parallel_margins(blocks, *problem).sum(), wanted.sum(), net)
        torch.testing.assert_close(parallel_margins(blocks, *problem), wanted)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hidden_bounds_are_those_of_their_own_rows(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "DENSE", 0)
    task = Task((1, 9, 12), TASK.class_counts, TASK.epsilon)
    net = a_net(create("convex_polytope"), "cnn7", task=task)
    x = torch.rand(2, *task.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks, ball = path_of(net, task.input_shape), Ball(x.flatten(1), x.new_full((1, 1), 0.02), norm)  # type: ignore[arg-type]
    relaxations = parallel_relaxations(blocks, ball)[0]
    for depth, found in enumerate(relaxations):
        eye = torch.eye(found.upper.shape[1], dtype=torch.float64).expand(2, -1, -1)
        before = (blocks[: depth + 1], relaxations[:depth], ball)
        low = linear_margins(*before, eye, x.new_zeros(2, eye.shape[1]))
        high = -linear_margins(*before, -eye, x.new_zeros(2, eye.shape[1]))
        wanted = parallel((low, high))
        torch.testing.assert_close(found.upper, wanted.upper)
        torch.testing.assert_close(found.intercept, wanted.intercept)
