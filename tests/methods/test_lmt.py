"""Lipschitz-margin training against its reference, its gate, and its power iteration."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from support import TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Net,
    NotApplicable,
    Radii,
    create,
)
from marginbench.methods.maths.estimate import batch_variances, estimate
from marginbench.methods.maths.layers import weighted_layers


def layer_matrices(net: Net) -> list[Tensor]:
    """The matrices of the layers with weights, differentiable, for images of 4x4."""
    matrices, size = [], (4, 4)
    for layer in [*net.body, net.head]:
        if isinstance(layer, nn.Conv2d):
            convolve = reference("lmt").convolution_matrix
            matrices.append(convolve(layer.weight, size, layer.stride, layer.padding))
            size = (size[0] // 2, size[1] // 2)
        elif isinstance(layer, nn.Linear):
            matrices.append(layer.weight)
    return matrices


def vectors(net: Net) -> list[Tensor]:
    return [layer.get_buffer("power_vector") for layer in weighted_layers(net)]


@pytest.mark.parametrize("variant", ["basic", "plus"])
@pytest.mark.parametrize("gate", ["true", "false"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_lmt_matches_its_reference(variant: str, gate: str, name: str) -> None:
    method, net, batch, ctx = stage(f"lmt(c=0.01,variant={variant},gate={gate},ramp_end=0)", name=name)
    matrices = layer_matrices(net)
    for i, matrix in enumerate(matrices):  # converged power iterations
        v = vectors(net)[i]
        v.copy_(torch.linalg.svd(matrix.detach())[2][0].view(v.shape))
    options = {"c": 0.01, "variant": variant, "gate": gate == "true"}
    wanted = reference("lmt").loss(net(batch.x), batch.y, matrices, 1 / 0.3, **options)
    assert_same(method.loss(net, batch, ctx).total, wanted, net, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variant", ["basic", "plus"])
@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (1, 0.4), (2, 0.8), (3, 1.0), (4, 1.0)])
def test_lmt_raises_c_linearly(variant: str, epoch: int, share: float) -> None:
    method, net, batch, ctx = stage(
        f"lmt(c=0.05,variant={variant},gate=false,ramp_end=0.5)", epoch=epoch
    )  # of 5 epochs
    constant = create(f"lmt(c={0.05 * share},variant={variant},gate=false,ramp_end=0)")
    assert_same(method.loss(net, batch, ctx).total, constant.loss(net, batch, ctx).total, net)
    full = create(f"lmt(c=0.05,variant={variant},gate=false,ramp_end=0)").loss(net, batch, ctx).total
    clean = create("ce").loss(net, batch, ctx).total
    if share == 0:
        assert_same(method.loss(net, batch, ctx).total, clean, net)
    assert (method.loss(net, batch, ctx).total < full) == (share < 1) and clean < full


def test_lmt_power_iteration_converges_from_below() -> None:
    method, net, _, ctx = stage("lmt", name="cnn")
    for i, matrix in enumerate(layer_matrices(net)):
        estimates = []
        for _ in range(200):
            estimates.append((matrix @ vectors(net)[i].flatten()).norm().item())
            with torch.no_grad():
                method.after_step(net, ctx)
        exact = torch.linalg.svdvals(matrix)[0].item()
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise([*estimates, exact]))
        assert estimates[0] > 0.9 * exact and estimates[-1] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("variant", ["basic", "plus"])
def test_lmt_gate(variant: str) -> None:
    method, net, batch, ctx = stage(f"lmt(c=100,variant={variant},ramp_end=0)")
    y = net(batch.x).argmin(1)
    wrong = Batch(batch.x, y, batch.index)
    assert_same(method.loss(net, wrong, ctx).total, F.cross_entropy(net(batch.x), y), net)
    for i in range(12):  # every correct example ends in a tie: no class beats the label
        one = Batch(batch.x[i : i + 1], net(batch.x[i : i + 1]).argmax(1), batch.index[i : i + 1])
        assert method.loss(net, one, ctx).total >= math.log(2) - 1e-9
        assert method.loss(net, one, ctx).total <= math.log(4) + 1e-9


def test_the_default_is_what_the_authors_ran_and_the_paper_can_be_had() -> None:
    default = create("lmt")
    assert default == create("lmt(variant=plus,gate=true,ramp_end=0.03125)")
    method, net, batch, ctx = stage("lmt(variant=basic,gate=false,ramp_end=0,c=1e-3)")
    wrong = Batch(batch.x, net(batch.x).argmin(1), batch.index)
    assert method.loss(net, wrong, ctx).total > F.cross_entropy(net(batch.x), wrong.y) + 1e-6  # no gate


def normed_net(body: nn.Sequential, features: int) -> Net:
    """A random network in training mode whose batch norms have scales and running statistics of their own."""
    net = Net(nn.Identity(), body, nn.Linear(features, 4)).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_var.copy_(1 + 4 * torch.rand(layer.num_features, generator=g, dtype=torch.float64))
    return net


def spread(layer: nn.BatchNorm1d | nn.BatchNorm2d, out: Tensor) -> Tensor:
    """|gamma| / sqrt(variance of the batch + eps) of what comes in, [B, C, ...] to [C]."""
    channels = out.transpose(0, 1).flatten(1)
    variance = (channels - channels.mean(1, keepdim=True)).square().mean(1)
    return layer.weight.abs() / (variance + layer.eps).sqrt()


def converge(net: Net, matrices: list[Tensor]) -> None:
    """Set the power vectors to the singular vectors of the written-out matrices."""
    for v, matrix in zip(vectors(net), matrices, strict=True):
        v.copy_(torch.linalg.svd(matrix.detach())[2][0].view(v.shape))


@pytest.mark.parametrize("variant", ["basic", "plus"])
def test_batch_norm_counts_with_the_layer_before_it_and_the_variance_of_the_batch(variant: str) -> None:
    convolution, first, linear, second = (
        nn.Conv2d(1, 3, 3, 2, 1),
        nn.BatchNorm2d(3),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5),
    )
    net = normed_net(nn.Sequential(convolution, first, nn.ReLU(), nn.Flatten(), linear, second, nn.ReLU()), 5)
    method = create(f"lmt(c=1e-3,variant={variant},ramp_end=0)")
    net = method.build(net, TASK).train()
    batch, ctx = a_batch(net), a_context()

    x = convolution(batch.x)
    scales = spread(first, x)
    hidden = linear(first(x).relu().flatten(1))
    kernel = convolution.weight * scales[:, None, None, None]
    matrices = [
        reference("lmt").convolution_matrix(kernel, (4, 4), (2, 2), (1, 1)),
        spread(second, hidden)[:, None] * linear.weight,
        net.head.weight,
    ]
    converge(net, matrices)
    logits = net.head(second(hidden).relu())
    wanted = reference("lmt").loss(logits, batch.y, matrices, 1, c=1e-3, variant=variant, gate=True)
    found = method.loss(net, batch, ctx)
    assert found.parts["penalty"] > 0
    assert_same(found.total, wanted, net, rtol=1e-7, atol=1e-8)

    constant = [m.detach() for m in matrices[:2]]  # broken: no gradient through the layers' norms
    twin = reference("lmt").loss(logits, batch.y, [*constant, matrices[2]], 1, c=1e-3, variant=variant, gate=True)
    with pytest.raises(AssertionError):
        assert_same(found.total, twin, net, rtol=1e-3, atol=1e-6)
    for layer in (first, second):
        layer.eval()  # broken: running variances
    assert method.loss(net, batch, ctx).parts["penalty"] != pytest.approx(found.parts["penalty"].item(), rel=1e-2)


def test_batch_norm_of_its_own_counts_with_its_largest_factor() -> None:
    first, convolution, last = nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3)
    net = normed_net(nn.Sequential(first, nn.ReLU(), convolution, nn.ReLU(), last, nn.Flatten()), 12)
    net = create("lmt").build(net, TASK).train()
    x = a_batch(net).x
    with batch_variances(net) as variances:
        net(x)
    kernel = reference("lmt").convolution_matrix(convolution.weight, (4, 4), (2, 2), (1, 1))
    converge(net, [kernel, net.head.weight])
    hidden = convolution(first(x).relu()).relu()
    wanted = spread(first, x).max() * torch.linalg.svdvals(kernel)[0] * spread(last, hidden).max()
    found = estimate(net.body, variances)
    assert isinstance(found, Tensor)
    assert_same(found, wanted, net)
    assert not layer_hooks(net)


def layer_hooks(net: Net) -> list[nn.Module]:
    return [layer for layer in net.modules() if layer._forward_pre_hooks]


def test_power_iterations_run_on_batch_norm_and_the_layer_before_it_as_one() -> None:
    convolution, norm = nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3)
    method, net = create("lmt"), normed_net(nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten()), 12)
    net, ctx = method.build(net, TASK), a_context()
    for _ in range(300):
        with torch.no_grad():
            method.after_step(net, ctx)
    kernel = convolution.weight * (norm.weight.abs() / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    matrix = reference("lmt").convolution_matrix(kernel, (4, 4), (2, 2), (1, 1))
    exact = torch.linalg.svdvals(matrix)[0]
    torch.testing.assert_close((matrix @ vectors(net)[0].flatten()).norm(), exact, rtol=1e-6, atol=0)
    alone = torch.linalg.svd(reference("lmt").convolution_matrix(convolution.weight, (4, 4), (2, 2), (1, 1)))[2][0]
    assert (matrix @ alone).norm() < 0.999 * exact  # the twin: the vector of the convolution alone


def test_a_constant_beyond_float32_is_gated_like_any_other() -> None:
    layers = [layer for _ in range(20) for layer in (nn.Linear(4, 4), nn.ReLU())]
    net = Net(nn.Flatten(), nn.Sequential(*layers), nn.Linear(4, 4))
    with torch.no_grad():
        for layer in weighted_layers(net)[:-1]:  # a direction without features, stretched 200 times by every layer
            layer.weight.copy_(torch.diag(torch.tensor([200.0, 0.5, 0.5, 0.5])))
            layer.bias.copy_(torch.tensor([0, 0.1, 0.2, 0.9]))
        net.head.weight.copy_(torch.eye(4))
    method = create("lmt(ramp_end=0)")
    net, ctx = method.build(net, replace(TASK, input_shape=(1, 2, 2))), a_context()
    for _ in range(5):
        with torch.no_grad():
            method.after_step(net, ctx)
    assert estimate(net.body, {}) > torch.finfo(torch.float32).max
    batch = Batch(torch.rand(8, 1, 2, 2) * torch.tensor([[0, 1.0], [1, 1]]), torch.arange(8) % 4, torch.arange(8))
    loss = method.loss(net, batch, ctx)
    loss.total.backward()
    assert loss.parts["penalty"] > 0
    assert loss.total.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_power_vectors_are_saved_and_survive_zero_weights() -> None:
    method, net, _, ctx = stage("lmt")
    assert {"body.1.power_vector", "body.3.power_vector", "head.power_vector"} <= set(net.state_dict())
    before = vectors(net)[1].clone()
    with torch.no_grad():
        net.body[3].weight.zero_()
        method.after_step(net, ctx)
    torch.testing.assert_close(vectors(net)[1], before)


def test_lmt_radius_of_a_linear_network_is_exact() -> None:
    method = create("lmt")
    net = a_net(method, "linear")
    batch = a_batch(net)
    answer = method.certify(net, batch.x, "l2")
    assert isinstance(answer, Radii)
    z, w = net(batch.x), net.head.weight / 0.3
    gaps = z.max(1, keepdim=True)[0] - z
    distance = gaps / torch.linalg.vector_norm(w[z.argmax(1)][:, None] - w, dim=2)
    wanted = distance.nan_to_num(torch.inf).amin(1)
    assert bool((answer.radius <= wanted).all())
    torch.testing.assert_close(answer.radius, wanted, rtol=1e-3, atol=1e-4)
    assert isinstance(method.certify(net, batch.x, "linf"), NotApplicable)
