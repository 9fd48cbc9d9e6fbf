"""L-Softmax against its reference; psi, its closed forms, and the annealing."""

import math
from collections.abc import Callable

import pytest
import torch
from support import EXACT, TASK, a_net, assert_same, gradients, reference, stage
from torch import Tensor, nn

from marginbench.methods import Batch, Context, MarginbenchError, Method, create
from marginbench.methods.maths.angles import multiply_angle


@pytest.mark.parametrize("annealing", [0.0, 2.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_l_softmax_matches_its_reference(m: int, annealing: float) -> None:
    method, net, batch, ctx = stage(f"l_softmax(m={m},lambda_peak={annealing},lambda_min={annealing})")
    wanted = reference("l_softmax").loss(net, batch.x, batch.y, m=m, annealing=annealing)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_has_the_closed_forms(m: int) -> None:
    cosine = torch.linspace(-1, 1, 201, dtype=torch.float64).requires_grad_()
    wanted = torch.stack([reference("a_softmax").psi(c, m) for c in cosine])
    found = multiply_angle(cosine, m)
    torch.testing.assert_close(found, wanted, **EXACT)
    torch.testing.assert_close(_slope(found, cosine), _slope(wanted, cosine), **EXACT)


@pytest.mark.parametrize("m", [2, 3, 4, 7])
def test_psi_falls_from_1_below_the_cosine(m: int) -> None:
    theta = torch.linspace(0, math.pi, 5041, dtype=torch.float64)  # a multiple of every m, and the ends
    psi = multiply_angle(theta.cos(), m)
    assert bool((psi.diff() < 1e-12).all()) and bool((psi <= theta.cos() + 1e-12).all())
    assert psi.diff().abs().max() < 1e-2  # continuous
    torch.testing.assert_close(psi[[0, -1]], torch.tensor([1.0, 1 - 2 * m], dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_psi_has_a_finite_gradient_at_the_ends(dtype: torch.dtype) -> None:
    cosine = torch.tensor([1.0, -1.0, 1 + 1e-7, -1 - 1e-7, 0.0], dtype=dtype, requires_grad=True)
    assert bool(_slope(multiply_angle(cosine, 4), cosine).abs().le(16.01).all())


def lambdas(method: Method, decay: Callable[[float], float], steps: int = 100) -> list[float]:
    ctx = Context(TASK, steps, 10, torch.Generator(), decay)
    values = []
    for ctx.step in range(steps):
        values.append(method._lambda(ctx))
    return values


def test_l_softmax_lowers_lambda_with_the_learning_rate() -> None:
    values = lambdas(create("l_softmax"), lambda progress: 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    assert values == pytest.approx([137.0] * 50 + [13.7] * 25 + [1.37] * 25)
    assert lambdas(create("l_softmax(lambda_min=5.0)"), lambda progress: 0.01) == [5.0] * 100


def test_l_softmax_follows_the_progress_where_nobody_tells_it_the_rate() -> None:
    ctx = Context(TASK, 100, 10, torch.Generator())
    ctx.step = 90
    assert create("l_softmax")._lambda(ctx) == pytest.approx(13.7)


def test_l_softmax_anneals_with_the_share_of_the_training() -> None:
    values = lambdas(create("l_softmax(annealing=progress,lambda_min=0.5)"), lambda progress: 1.0)
    assert values[0] == 1000 and values[-1] == 0.5 and values == sorted(values, reverse=True)
    assert values[20] == pytest.approx(1000 * 1.12**-45)


def test_l_softmax_under_a_large_lambda_is_cross_entropy_without_bias() -> None:
    method, net, batch, ctx = stage("l_softmax(m=4,lambda_min=1e12)")
    assert net.head.bias is None
    torch.testing.assert_close(net(batch.x), net.features(batch.x) @ net.head.weight.T, **EXACT)
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)


def test_l_softmax_reads_the_progress() -> None:
    losses = []
    for epoch in range(5):
        method, net, batch, ctx = stage("l_softmax(m=4)", epoch)
        losses.append(method.loss(net, batch, ctx).total)
    assert bool((torch.stack(losses).diff() > 0).all())  # psi <= cos: more margin, more loss


def test_l_softmax_survives_zero_features() -> None:
    method, net, _, ctx = stage("l_softmax", epoch=4)
    net = net.float()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    features = torch.cat([net.head.weight[:2].detach(), torch.zeros(1, 6)]).requires_grad_()
    y = torch.tensor([0, 1, 2])
    loss = method.loss(net, Batch(features, y, y), ctx).total
    assert all(bool(g.isfinite().all()) for g in (loss, _slope(loss, features), *gradients(loss, net)))


def test_l_softmax_replaces_linear_heads_only() -> None:
    net = a_net(create("ce"))
    net.head = nn.Identity()
    with pytest.raises(MarginbenchError, match="linear head"):
        create("l_softmax").build(net, TASK)


@pytest.mark.parametrize(
    "spec", ["l_softmax(m=0)", "l_softmax(m=2.5)", "l_softmax(lambda_min=-1.0)", "l_softmax(annealing=no)"]
)
def test_l_softmax_refuses_bad_fields(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="l_softmax"):
        create(spec)


def _slope(value: Tensor, at: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value.sum(), at, retain_graph=True)
    return slope
