"""Operator norms and Lipschitz certificates: never below the truth."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from support import TASK, a_context, a_net, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
    MarginbenchError,
    Net,
    Normalise,
    NotApplicable,
    Radii,
    Residual,
    Scale,
    create,
    logit_margin,
)
from marginbench.methods.maths.bounds.linear import Ball
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.rows import parallel_margins
from marginbench.methods.maths.lipschitz import feature_bound, flat, layer_bound, lipschitz_radius
from marginbench.methods.maths.operator_norm import (
    apply,
    circular_norm,
    convolution_matrix,
    convolution_norm,
    eigenvalue_bound,
    matrix_norm,
    power_iterate,
    reached_outputs,
)
from marginbench.methods.maths.perturb import pgd


def attacked(net: nn.Module, x: Tensor, epsilon: Tensor) -> Tensor:
    """Which predictions change within L2 distances epsilon [B]."""
    predicted = net(x).argmax(1)
    delta = pgd(
        lambda point: -logit_margin(net(point), predicted),
        x,
        torch.zeros_like(x),
        epsilon=epsilon,
        step=epsilon / 4,
        steps=30,
        norm="l2",
    )
    return net(x + delta).argmax(1) != predicted


@pytest.mark.parametrize("spec", ["ce", "arcface", "lmt"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_no_attack_within_the_certified_radius(spec: str, name: str) -> None:
    _, net, batch, _ = stage(spec, name=name)
    answer = lipschitz_radius(net.decision_net(), batch.x)
    assert isinstance(answer, Radii)
    assert bool((answer.radius > 0).all())
    assert not attacked(net, batch.x, answer.radius).any()
    assert attacked(net, batch.x, 100 * answer.radius).any()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        ((4, 4), (2, 2), (1, 1), (8, 8)),
        ((3, 3), (1, 1), (1, 1), (6, 7)),
        ((3, 2), (2, 3), (0, 1), (7, 8)),
        ((5, 5), (3, 3), (2, 2), (9, 8)),
        ((1, 1), (2, 2), (0, 0), (5, 5)),
        ((2, 2), (3, 3), (1, 0), (6, 6)),
    ],
)
def test_convolution_norm_is_an_upper_bound(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int], dense: bool
) -> None:
    weight = torch.randn(3, 2, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = reference("lmt").convolution_matrix(weight, size, stride, padding)
    exact = torch.linalg.svdvals(matrix)[0]
    bound = (convolution_norm if dense else circular_norm)(weight, size, stride, padding)
    assert exact <= bound <= (1 + 1e-8 if dense else 1.5) * exact

    layer = nn.utils.skip_init(nn.Conv2d, 2, 3, kernel, stride, padding, dtype=torch.float64)
    layer.weight = nn.Parameter(weight)
    v = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(500):
        v = power_iterate(partial(apply, layer), v)
    below = F.conv2d(v, weight, None, stride, padding).norm()
    assert below <= bound and below == pytest.approx(exact.item(), rel=1e-3)


def test_large_convolutions_take_the_fourier_bound() -> None:
    weight = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    arguments = weight, (24, 24), (1, 1), (1, 1)
    torch.testing.assert_close(convolution_norm(*arguments), circular_norm(*arguments))
    torch.testing.assert_close(matrix_norm(weight[0, 0]), torch.linalg.svdvals(weight[0, 0].double())[0])


def test_feature_bound_of_pooling_and_dropout() -> None:
    x = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    for pool in (nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((2, 3), (1, 2))):
        exact = torch.linalg.svdvals(reference("lmt").matrix(pool, (1, 2, 6, 6)))[0]
        torch.testing.assert_close(feature_bound([pool], x), exact, rtol=1e-8, atol=0)
    assert feature_bound(flat(nn.Sequential(nn.Sequential(nn.Dropout()), nn.Flatten()).eval()), x) == 1


class OddLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 10 * super().forward(input)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2, dilation=2),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.Sigmoid(),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        OddLinear(4, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_bound_are_named(layer: nn.Module) -> None:
    net = a_net(create("ce"))
    net.body = nn.Sequential(layer.double(), *net.body)
    answer = lipschitz_radius(net.decision_net(), torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    assert isinstance(answer, NotApplicable) and type(layer).__name__ in answer.reason
    with pytest.raises(MarginbenchError, match=type(layer).__name__):
        create("lmt").build(net, TASK)


def test_dropout_counts_in_eval_mode_only() -> None:
    net = a_net(create("ce"))
    net.body = nn.Sequential(nn.Dropout(), *net.body)
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    assert isinstance(lipschitz_radius(net.decision_net(), x), NotApplicable)
    assert isinstance(lipschitz_radius(net.eval().decision_net(), x), Radii)


def residual_net(seed: int) -> Net:
    """A random residual network with batch norm and both poolings, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = a_net(create("ce"), task=BIG)
        branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )
        shrink = Residual(nn.Conv2d(4, 6, 3, 2, 1), nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 6, 1)))
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(branch)]
        net.body = nn.Sequential(*layers, nn.ReLU(), shrink, nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(24)).double()
        net.head = nn.Linear(24, 4).double()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_var = 0.2 + torch.rand_like(layer.running_var)
                layer.running_mean = torch.randn_like(layer.running_mean)
                nn.init.normal_(layer.weight, 1, 0.5)
    return net.eval()


BIG = replace(TASK, input_shape=(1, 8, 8))


@pytest.mark.parametrize("seed", range(5))
def test_residual_sums_batch_norm_and_pooling_are_counted(seed: int) -> None:
    net = residual_net(seed)
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    answer = lipschitz_radius(net.decision_net(), x)
    assert isinstance(answer, Radii) and bool((answer.radius > 0).all())
    assert not attacked(net, x, answer.radius).any()
    assert attacked(net, x, 300 * answer.radius).any()
    bound = feature_bound(flat(net.normalise, net.body), x[:1])
    (jacobian,) = (torch.autograd.functional.jacobian(lambda one: net.features(one)[0], x[:1]).flatten(1),)
    assert torch.linalg.svdvals(jacobian)[0] <= bound


@pytest.mark.parametrize("kind", ["convolution", "large convolution", "linear"])
def test_batch_norm_behind_a_layer_with_weights_is_bounded_with_it(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    if kind == "linear":
        layer, norm, shape = nn.Linear(6, 5), nn.BatchNorm1d(5), [1, 6]
    else:
        side = 6 if kind == "convolution" else 24
        layer, norm, shape = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), [1, 2, side, side]
    layer, norm = layer.double().requires_grad_(False), norm.double().eval().requires_grad_(False)
    for values in (norm.weight, norm.running_mean, norm.bias):
        values.copy_(torch.randn(5, generator=g))
    norm.running_var.copy_(0.1 + torch.rand(5, generator=g))
    x = torch.zeros(shape, dtype=torch.float64)
    exact = torch.linalg.svdvals(reference("lmt").matrix(nn.Sequential(layer, norm), shape))[0]
    bound, apart = feature_bound([layer, norm], x), layer_bound(layer, x) * layer_bound(norm, x)
    assert exact <= bound <= (1.02 if kind == "large convolution" else 1 + 1e-8) * exact
    assert apart > 1.05 * bound
    torch.testing.assert_close(feature_bound([layer, nn.Identity(), norm], x), torch.as_tensor(apart))
    plain = type(norm)(5).double().eval()
    found = feature_bound([layer, norm, nn.ReLU(), plain], x)
    torch.testing.assert_close(found, bound / (1 + 1e-5) ** 0.5)


def test_batch_norm_over_another_dimension_than_the_outputs_is_bounded_apart() -> None:
    layer, norm = nn.Linear(3, 3).double(), nn.BatchNorm1d(3).double().eval()  # [B, 3 positions, 3]
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([0.01, 1, 100]))
        layer.weight.copy_(torch.diag(torch.tensor([1e-3, 1.0, 10.0])))
        x = torch.zeros(1, 3, 3, dtype=torch.float64)
        exact = torch.linalg.svdvals(reference("lmt").matrix(nn.Sequential(layer, norm), x.shape))[0]
    assert exact <= feature_bound([layer, norm], x) <= 1.01 * exact


def test_bounds_of_batch_norm_and_a_residual_sum_are_exact_where_they_can_be() -> None:
    layer = nn.BatchNorm2d(2).double().eval()
    layer.running_var = torch.tensor([4.0, 0.25], dtype=torch.float64)
    layer.weight = nn.Parameter(torch.tensor([6.0, -2.0], dtype=torch.float64))
    x = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(feature_bound([layer], x).item(), 4.0, rtol=1e-4, atol=0)
    assert feature_bound([Residual(nn.Identity())], x) == 2
    with pytest.raises(MarginbenchError, match="OddLinear"):
        feature_bound([Residual(OddLinear(3, 3))], x)
    assert feature_bound([nn.MaxPool2d(2)], x) == 1 and feature_bound([nn.MaxPool2d(3, 2)], x) == 2


def test_lmt_penalises_residual_networks_by_the_bound() -> None:
    method, net = create("lmt(c=0.001,variant=basic,gate=false,ramp_end=0)"), residual_net(0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net = method.build(net.train(), BIG)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())  # also running statistics
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ctx = a_context()
    for _ in range(300):  # the power iterations converge to the bound from below
        method.after_step(net, ctx)
    batch = Batch(x, torch.arange(16) % 4, torch.arange(16))
    penalty = method.loss(net.eval(), batch, ctx).parts["penalty"]
    bound = feature_bound(flat(net.normalise, net.body, net.head), x[:1])
    expected = 2**0.5 * 0.001 * bound * 3 / 4  # no penalty on the label itself
    assert penalty <= expected and penalty == pytest.approx(expected.item(), rel=0.05)
    method.loss(net, batch, ctx).total.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_no_certificate_for_broken_weights_or_other_heads() -> None:
    net = a_net(create("ce"))
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    assert isinstance(lipschitz_radius(net.decision_net(), x), NotApplicable)
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head, nn.Softmax(1))
    assert isinstance(lipschitz_radius(net.decision_net(), x), NotApplicable)
    with pytest.raises(MarginbenchError, match="linear head"):
        create("lmt").build(net, TASK)


def test_eigenvalues_are_bounded_by_powers() -> None:
    g = torch.Generator().manual_seed(0)
    matrices = [torch.randn(3, 5, 5, generator=g, dtype=kind) for kind in (torch.float64, torch.complex128)]
    for matrix in (*matrices, torch.eye(40, dtype=torch.float64), 1e-9 * matrices[0], torch.zeros(2, 2).double()):
        gram = matrix @ matrix.mH
        exact = torch.linalg.eigvalsh(gram)[..., -1]
        found = eigenvalue_bound(gram) * (1 + 1e-12)
        assert bool((found >= exact).all())
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=0)


def test_convolution_as_a_matrix() -> None:
    g = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 2, 3, 4), (5, 2, 7, 8)))
    geometry = ((7, 8), (2, 3), (1, 2))
    matrix = convolution_matrix(weight, *geometry)
    torch.testing.assert_close(x.flatten(1) @ matrix.T, F.conv2d(x, weight, None, *geometry[1:]).flatten(1))
    missed = torch.ones_like(matrix.T).scatter(1, reached_outputs(weight, *geometry), 0)
    assert bool((missed * matrix.T == 0).all()) and bool(missed.any())


def test_a_scale_is_known_by_its_type() -> None:
    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.int64)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), Scale(-0.5), nn.Linear(8, 8), nn.ReLU())
    net = Net(Normalise(torch.tensor([0.5]), torch.tensor([0.25])), body, nn.Linear(8, 3)).requires_grad_(False)
    assert layer_bound(Scale(-0.5), x) == 0.5
    assert layer_bound(net.normalise, x) == 4
    ball = Ball(x.flatten(1), torch.full((1, 1), 1e-6), "linf")
    z = net(x)
    margins = parallel_margins(path_of(net, (1, 4, 4)), ball, *specification(net, y))
    torch.testing.assert_close(margins, z[:, :1] - z, atol=1e-3, rtol=0)
    assert isinstance(lipschitz_radius(net.decision_net(), x), Radii)


class Shifted(Normalise):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_a_normalisation_with_a_forward_of_its_own_is_not_known() -> None:
    with pytest.raises(MarginbenchError, match="no Lipschitz bound is known"):
        layer_bound(Shifted(torch.tensor([0.5]), torch.tensor([0.25])), torch.rand(1, 1, 4, 4))
