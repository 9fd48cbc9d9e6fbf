"""A-Softmax against its reference, which uses closed forms, and its relation to L-Softmax."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, gradients, reference, stage
from torch import nn

from marginbench.methods import Batch, MarginbenchError, create
from marginbench.methods.maths.angles import unit_rows


@pytest.mark.parametrize("annealing", [0.0, 5.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_a_softmax_matches_its_reference(m: int, annealing: float) -> None:
    fields = f"m={m},lambda_start={annealing},power=0.0,lambda_min={annealing}"
    method, net, batch, ctx = stage(f"a_softmax({fields},gradient=paper)")
    wanted = reference("a_softmax").loss(net, batch.x, batch.y, m=m, annealing=annealing)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    torch.testing.assert_close(create(f"a_softmax({fields})").loss(net, batch, ctx).total, wanted, **EXACT)


@pytest.mark.parametrize("annealing", [0.0, 5.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_a_softmax_sends_back_what_the_authors_layer_does(m: int, annealing: float) -> None:
    method, net, _, ctx = stage(f"a_softmax(m={m},lambda_start={annealing},power=0.0,lambda_min={annealing})")
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    stream = torch.Generator().manual_seed(m)
    features = torch.randn(40, 6, generator=stream, dtype=torch.float64).requires_grad_()
    y = torch.arange(40) % 4
    with torch.no_grad():
        net.head.weight.copy_(unit_rows(net.head.weight))
    weight, loss = net.head.weight, method.loss(net, Batch(features, y, y), ctx).total
    to_features, to_weight = torch.autograd.grad(loss, (features, weight))
    wanted, plain = reference("a_softmax").slopes(features.detach(), weight.detach(), y, m=m, annealing=annealing)
    torch.testing.assert_close(to_features, wanted, **EXACT)
    tangent = plain - (plain * weight).sum(1, keepdim=True) * weight  # the head normalises its rows
    torch.testing.assert_close(to_weight, tangent.detach(), **EXACT)


def test_a_softmax_gradients_agree_without_a_margin_only() -> None:
    for m in (1, 4):
        method, net, batch, ctx = stage(f"a_softmax(m={m})", epoch=4)
        paper = create(f"a_softmax(m={m},gradient=paper)")
        both = [gradients(one.loss(net, batch, ctx).total, net) for one in (method, paper)]
        alike = [torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(*both, strict=True)]
        assert all(alike) if m == 1 else not any(alike[:1])


def test_a_softmax_survives_zero_and_parallel_features() -> None:
    method, net, _, ctx = stage("a_softmax", epoch=4)
    net = net.float()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    weight = net.head.weight[:2].detach()
    features = torch.cat([weight, -weight, torch.zeros(1, 6)]).requires_grad_()
    y = torch.tensor([0, 1, 0, 1, 2])
    loss = method.loss(net, Batch(features, y, y), ctx).total
    assert all(bool(g.isfinite().all()) for g in (loss, *torch.autograd.grad(loss, (features, net.head.weight))))


def test_a_softmax_ignores_the_norms_of_the_class_weights() -> None:
    method, net, batch, ctx = stage("a_softmax(lambda_min=0.0)", epoch=4)
    loss, z = method.loss(net, batch, ctx).total, net(batch.x)
    (slope,) = torch.autograd.grad(loss, net.head.weight)
    torch.testing.assert_close((slope * net.head.weight).sum(1), torch.zeros(4, dtype=torch.float64), **EXACT)
    with torch.no_grad():
        net.head.weight.mul_(torch.tensor([[0.5], [1], [2], [30]], dtype=torch.float64))
    torch.testing.assert_close(net(batch.x), z, **EXACT)
    torch.testing.assert_close(method.loss(net, batch, ctx).total, loss, **EXACT)


def test_a_softmax_is_l_softmax_with_unit_rows() -> None:
    fields = "m=4,lambda_start=100.0,gamma=9.0,power=2.0,lambda_min=0.0"
    method, other = create(f"a_softmax({fields})"), create(f"l_softmax({fields},annealing=progress)")
    net, twin = a_net(method), a_net(other)
    with torch.no_grad():
        twin.head.weight.copy_(unit_rows(net.head.weight))
    batch, ctx = a_batch(net), a_context(epoch=2)
    torch.testing.assert_close(net(batch.x), twin(batch.x), **EXACT)
    torch.testing.assert_close(method.loss(net, batch, ctx).total, other.loss(twin, batch, ctx).total, **EXACT)


def test_a_softmax_logits_are_norms_times_cosines_and_so_is_the_decision_net() -> None:
    _, net, batch, _ = stage("a_softmax")
    features = net.features(batch.x)
    wanted = features.norm(dim=1, keepdim=True) * net.head.cosine(features)
    torch.testing.assert_close(net(batch.x), wanted, **EXACT)
    torch.testing.assert_close(net.decision_net()(batch.x), wanted, **EXACT)


def test_a_softmax_reaches_its_smallest_lambda_half_way() -> None:
    method = create("a_softmax")
    assert method._lambda(0.0) == 1000 and method._lambda(0.49) > 5 and method._lambda(0.5) == 5


@pytest.mark.parametrize("spec", ["a_softmax(m=0)", "a_softmax(gamma=-1.0)", "a_softmax(power=-1.0)"])
def test_a_softmax_refuses_bad_fields(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="a_softmax"):
        create(spec)
