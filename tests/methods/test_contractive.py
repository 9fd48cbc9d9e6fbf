"""Contractive rectifier networks: the loss, the constraint, and the certificate."""

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import nn

from marginbench.methods import MarginbenchError, NotApplicable, Radii, Residual, create
from marginbench.methods.maths.lipschitz import flat, layer_bound, leaves


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_contractive_matches_its_reference(name: str) -> None:
    method, net, batch, ctx = stage("contractive(decay=0.3)", name=name)
    wanted = reference("contractive").loss(net(batch.x), batch.y, net.head.weight, 0.3)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_cross_entropy_output() -> None:
    method, net, batch, ctx = stage("contractive(output=ce,decay=0.3)")
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.15 * net.head.weight.square().sum()
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_hidden_layers_are_contractions(name: str) -> None:
    method = create("contractive")
    net = a_net(method, name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5)
        small = next(iter(net.body.parameters()))
        small.mul_(1e-3)  # short already: must stay as it is
        before = small.clone()
        head = net.head.weight.clone()
        method.after_step(net, a_context())
        assert torch.equal(small, before) and torch.equal(net.head.weight, head)
        x = torch.zeros(1, *TASK.input_shape, dtype=torch.float64)
        norms = [float(layer_bound(layer, inputs)) for layer, inputs in leaves(flat(net.body), x)]
        assert max(norms) <= 1 + 1e-6 and norms[-2] == pytest.approx(1)
        a, b = a_batch(net, count=50, seed=1).x, a_batch(net, count=50, seed=2).x
        far = (net.normalise(a) - net.normalise(b)).flatten(1).norm(dim=1)
        assert bool(((net.features(a) - net.features(b)).norm(dim=1) <= far + 1e-12).all())


def test_batch_norm_and_residual_sums_become_contractions() -> None:
    method, net = create("contractive"), a_net(create("ce"), "cnn")
    norm = nn.BatchNorm2d(2).double()
    norm.running_var = torch.tensor([0.25, 4.0], dtype=torch.float64)
    net.body.insert(1, nn.Sequential(norm, Residual(nn.Conv2d(2, 2, 3, padding=1).double())))
    x = a_batch(net.eval()).x
    net = method.build(net.train(), TASK)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-3.0, 1.5]))
        before = {name: value.clone() for name, value in net.named_buffers()}
        method.after_step(net, a_context())
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())  # no image has been seen
    torch.testing.assert_close(norm.weight.detach(), torch.tensor([-0.5, 1.5], dtype=torch.float64), rtol=1e-4, atol=0)
    with torch.no_grad():
        branch = net.body[1][1][0].branch
        features = norm.eval()(net.body[0](net.normalise(x)))
        torch.testing.assert_close(net.body[1](net.body[0](net.normalise(x))), (features + branch(features)) / 2)
        a, b = a_batch(net, count=50, seed=1).x, a_batch(net, count=50, seed=2).x
        far = (net.normalise(a) - net.normalise(b)).flatten(1).norm(dim=1)
        assert bool(((net.eval().features(a) - net.features(b)).norm(dim=1) <= far + 1e-12).all())


def test_projection_divides_by_the_norm() -> None:
    method, net, _, ctx = stage("contractive")
    layer = net.body[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(7)
        wanted = layer.weight / torch.linalg.svdvals(layer.weight)[0]
        method.after_step(net, ctx)
    torch.testing.assert_close(layer.weight, wanted, rtol=1e-8, atol=1e-8)


def test_certificate_is_the_margin_over_the_weights_difference() -> None:
    method = create("contractive")
    net = a_net(method, "linear").eval()
    batch = a_batch(net)
    found = method.certify(net, batch.x, "l2")
    assert isinstance(found, Radii)
    with torch.no_grad():
        wanted = [reference("contractive").radius(z, net.head.weight, 1 / 0.3) for z in net(batch.x)]
    torch.testing.assert_close(found.radius, torch.stack(wanted), rtol=1e-3, atol=1e-4)
    assert bool((found.radius <= torch.stack(wanted)).all())
    assert isinstance(method.certify(net, batch.x, "linf"), NotApplicable)


def test_certified_radius_is_at_most_the_distance_to_another_class() -> None:
    method, net, batch, ctx = stage("contractive")
    with torch.no_grad():
        method.after_step(net, ctx)
        answer = method.certify(net.eval(), batch.x, "l2")
        assert isinstance(answer, Radii)
        labels = net(batch.x).argmax(1)
        for other in a_batch(net, count=200, seed=5).x:
            distance = (batch.x - other).flatten(1).norm(dim=1)
            assert bool((answer.radius <= distance)[labels != net(other[None]).argmax(1)].all())


def test_margin_of_one_costs_nothing() -> None:
    method, net, batch, ctx = stage("contractive(decay=0)")
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([1.5, 0.0, 0.5, 0.0]))
    batch.y.zero_()
    torch.testing.assert_close(method.loss(net, batch, ctx).total.item(), 0.0, **EXACT)


@pytest.mark.parametrize("fields", ["decay=-1", "output=hinge"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="contractive"):
        create(f"contractive({fields})")


def test_networks_without_a_bound_are_refused() -> None:
    net = a_net(create("ce"))
    net.body.append(nn.BatchNorm1d(6, affine=False).double())
    with pytest.raises(MarginbenchError, match="BatchNorm1d"):
        create("contractive").build(net, TASK)
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head)
    with pytest.raises(MarginbenchError, match="linear head"):
        create("contractive").build(net, TASK)
