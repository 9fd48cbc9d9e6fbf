"""Lipschitz-margin training against its reference, its gate, and its power iteration."""

import itertools
import math

import pytest
import torch
from support import a_batch, a_net, assert_same, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    Net,
    NotApplicable,
    Radii,
    create,
)
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
    method, net, batch, ctx = stage(f"lmt(c=0.01,variant={variant},gate={gate})", name=name)
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
    method, net, batch, ctx = stage(f"lmt(c=0.05,variant={variant},ramp_end=0.5)", epoch=epoch)  # of 5 epochs
    constant = create(f"lmt(c={0.05 * share},variant={variant})")
    assert_same(method.loss(net, batch, ctx).total, constant.loss(net, batch, ctx).total, net)
    full = create(f"lmt(c=0.05,variant={variant})").loss(net, batch, ctx).total
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
    method, net, batch, ctx = stage(f"lmt(c=100,variant={variant},gate=true)")
    y = net(batch.x).argmin(1)
    wrong = Batch(batch.x, y, batch.index)
    assert_same(method.loss(net, wrong, ctx).total, F.cross_entropy(net(batch.x), y), net)
    for i in range(12):  # every correct example ends in a tie: no class beats the label
        one = Batch(batch.x[i : i + 1], net(batch.x[i : i + 1]).argmax(1), batch.index[i : i + 1])
        assert method.loss(net, one, ctx).total >= math.log(2) - 1e-9
        assert method.loss(net, one, ctx).total <= math.log(4) + 1e-9


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
