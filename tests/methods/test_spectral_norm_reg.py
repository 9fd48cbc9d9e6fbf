"""Spectral norm regularisation against singular values, and its power iteration."""

import pytest
import torch
from support import a_net, assert_same, reference, stage
from torch import Tensor, nn

from marginbench.methods import Method, Net, create


def matrices(net: Net, operator: str) -> list[Tensor]:
    found, size = [], (4, 4)
    for layer in [*net.body, net.head]:
        if isinstance(layer, nn.Linear):
            found.append(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            convolve = reference("spectral_norm_reg").convolution_matrix
            by_image = operator == "convolution"
            found.append(
                convolve(layer.weight, size, layer.stride, layer.padding) if by_image else layer.weight.flatten(1)
            )
            size = (size[0] // 2, size[1] // 2)
    return found


def advance(method: Method, net: Net, steps: int) -> None:
    _, _, _, ctx = stage("ce")
    with torch.no_grad():
        for _ in range(steps):
            method.after_step(net, ctx)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("operator", ["kernel", "convolution"])
def test_spectral_norms_match_the_reference(name: str, operator: str) -> None:
    method, net, batch, ctx = stage(f"spectral_norm_reg(weight=0.3,operator={operator})", name=name)
    for i, matrix in enumerate(matrices(net, operator)):
        v = net.get_buffer(f"spectral_vector_{i}")
        v.copy_(torch.linalg.svd(matrix.detach())[2][0].view(v.shape))
    penalty = reference("spectral_norm_reg").penalty(matrices(net, operator))
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * penalty
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("operator", ["kernel", "convolution"])
def test_power_iteration_converges_from_below(operator: str) -> None:
    method, net, batch, ctx = stage(f"spectral_norm_reg(operator={operator})", name="cnn")
    exact = reference("spectral_norm_reg").penalty(matrices(net, operator)).item()
    early = method.loss(net, batch, ctx).parts["penalty"].item()
    advance(method, net, 300)
    late = method.loss(net, batch, ctx).parts["penalty"].item()
    assert 0.8 * exact < early <= late <= exact * (1 + 1e-9)
    assert late == pytest.approx(exact, rel=1e-3)


def test_gradient_is_sigma_and_not_its_square() -> None:
    method, net, batch, ctx = stage("spectral_norm_reg(weight=1)")
    advance(method, net, 500)
    penalty = method.loss(net, batch, ctx).total - reference("ce").loss(net, batch.x, batch.y)
    (gradient,) = torch.autograd.grad(penalty, net.head.weight)
    sigma = torch.linalg.svdvals(net.head.weight)[0].item()
    assert sigma != pytest.approx(1, abs=0.1)
    assert gradient.norm().item() == pytest.approx(sigma, rel=1e-6)


def test_rank_one_is_weight_decay_and_rotations_change_nothing() -> None:
    method = create("spectral_norm_reg")
    net = a_net(method, "linear")
    _, _, batch, ctx = stage("ce", name="linear")
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=generator))[0]
    found = []
    for turn in (torch.eye(16, dtype=torch.float64), rotation):
        with torch.no_grad():
            net.head.weight.copy_(torch.outer(torch.arange(1.0, 5.0).double(), torch.linspace(-1, 1, 16)) @ turn)
        advance(method, net, 5)
        found.append(method.loss(net, batch, ctx).parts["penalty"].item())
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(net.head.weight.square().sum().item() / 2)


def test_a_vanishing_layer_keeps_its_vector() -> None:
    method, net, _, _ = stage("spectral_norm_reg")
    before = net.get_buffer("spectral_vector_2").clone()
    with torch.no_grad():
        net.head.weight.zero_()
    advance(method, net, 1)
    assert torch.equal(net.get_buffer("spectral_vector_2"), before)


def test_layers_are_found_inside_blocks() -> None:
    class Residual(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + super().forward(x)
            return out

    net = a_net(create("ce"))
    net.body.append(Residual(nn.Linear(6, 6), nn.ReLU()).double())
    _, _, batch, ctx = stage("ce")
    for operator in ("kernel", "convolution"):
        method = create(f"spectral_norm_reg(operator={operator})")
        built = method.build(net, ctx.task)
        assert built.get_buffer("spectral_vector_3").shape == (1, 6)
        assert method.loss(built, batch, ctx).total.isfinite()
