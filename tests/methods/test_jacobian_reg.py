"""Jacobian regularisation against its reference, exact and projected."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, reference, stage

from marginbench.methods import (
    create,
)
from marginbench.methods.maths.jacobian import jacobian_rows, unit_vectors, vjp


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_exact_jacobian_matches_its_reference(name: str) -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=exact,weight=0.3)", name=name)
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * reference("jacobian_reg").penalty(net, batch.x)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_projected_jacobian_uses_the_formula_of_the_paper() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=2,weight=1)")
    found = method.loss(net, batch, ctx).total
    generator, squares = torch.Generator().manual_seed(0), 0.0
    rows = torch.stack(
        [torch.autograd.functional.jacobian(lambda a: net(a[None])[0], a, create_graph=True) for a in batch.x]
    )
    for _ in range(2):
        v = unit_vectors(net(batch.x), generator)
        torch.testing.assert_close(v.norm(dim=1), torch.ones(12, dtype=torch.float64))
        squares = squares + torch.einsum("bk,bkchw->bchw", v, rows).square().sum()
    wanted = reference("ce").loss(net, batch.x, batch.y) + 4 / 2 * squares / (2 * 12)
    assert_same(found, wanted, net)


def test_projected_jacobian_is_unbiased() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=3000)")
    wanted = reference("jacobian_reg").penalty(net, batch.x)
    assert method.loss(net, batch, ctx).parts["penalty"].item() == pytest.approx(wanted.item(), rel=0.01)


def test_jacobian_of_a_linear_network_is_its_matrix() -> None:
    method = create("jacobian_reg(projections=exact)")
    net = a_net(method, "linear")
    batch = a_batch(net)
    penalty = method.loss(net, batch, a_context()).parts["penalty"]
    torch.testing.assert_close(penalty, (net.head.weight / net.normalise.std.item()).square().sum() / 2, **EXACT)
    x = batch.x.clone().requires_grad_()
    rows = jacobian_rows(net(x), x)
    v = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vjp(net(x), x, v), torch.einsum("bk,bkchw->bchw", v, rows), **EXACT)
    with torch.no_grad():
        net.head.weight.zero_()
    assert method.loss(net, batch, a_context()).parts["penalty"] == 0


def test_exact_jacobian_draws_nothing() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=exact)")
    state = ctx.generator.get_state()
    method.loss(net, batch, ctx)
    assert torch.equal(ctx.generator.get_state(), state) and not batch.x.requires_grad


def test_square_root_over_the_batch_matches_its_reference() -> None:
    method, net, batch, ctx = stage("jacobian_reg(form=sqrt,projections=exact,weight=0.3)")
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * reference("jacobian_reg").frobenius(net, batch.x)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    many = create("jacobian_reg(form=sqrt,projections=3000)").loss(net, batch, ctx).parts["penalty"]
    assert many.item() == pytest.approx(reference("jacobian_reg").frobenius(net, batch.x).item(), rel=0.01)


def test_square_root_of_nothing_has_a_gradient() -> None:
    method, net, batch, ctx = stage("jacobian_reg(form=sqrt,projections=exact)")
    with torch.no_grad():
        net.head.weight.zero_()
    loss = method.loss(net, batch, ctx)
    assert loss.parts["penalty"] == 0
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss.total, list(net.parameters())))


def test_pretraining_is_cross_entropy() -> None:
    method, net, batch, ctx = stage("jacobian_sqrt", epoch=2)
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)
    assert method.loss(net, batch, a_context(epoch=3)).parts["penalty"] > 0


def test_random_row_is_one_row_of_the_jacobian() -> None:
    method, net, batch, ctx = stage("jacobian_reg(form=row,weight=0.3)")
    rows = torch.stack(
        [torch.autograd.functional.jacobian(lambda a: net(a[None])[0], a, create_graph=True) for a in batch.x]
    )
    drawn = torch.randint(4, (12,), generator=torch.Generator().manual_seed(0))
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * rows[torch.arange(12), drawn].square().sum() / 12
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_random_row_averages_to_the_exact_penalty() -> None:
    method, net, batch, ctx = stage("jacobian_reg(form=row)")
    draws = torch.stack([method.loss(net, batch, ctx).parts["penalty"] for _ in range(400)])
    wanted = 2 / 4 * reference("jacobian_reg").penalty(net, batch.x).item()
    assert draws.mean().item() == pytest.approx(wanted, rel=0.05)
