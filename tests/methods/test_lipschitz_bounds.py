"""Operator norms and Lipschitz certificates: never below the truth."""

import pytest
import torch
from support import TASK, a_net, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import (
    MarginbenchError,
    NotApplicable,
    Radii,
    create,
)
from marginbench.methods._lipschitz import feature_bound, flat, lipschitz_radius
from marginbench.methods._operator_norm import circular_norm, convolution_norm, matrix_norm, power_step
from marginbench.methods._perturb import pgd


@pytest.mark.parametrize("spec", ["ce", "arcface", "lmt"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_no_attack_within_the_certified_radius(spec: str, name: str) -> None:
    _, net, batch, _ = stage(spec, name=name)
    answer = lipschitz_radius(net, batch.x)
    assert isinstance(answer, Radii)
    radius, predicted = answer.radius, net(batch.x).argmax(1)
    assert bool((radius > 0).all())

    def attack(reach: float) -> Tensor:
        def objective(x: Tensor) -> Tensor:
            z = net(x)
            rival = z.scatter(1, predicted[:, None], -torch.inf).amax(1)
            return rival - z.gather(1, predicted[:, None])[:, 0]

        x, epsilon = batch.x, reach * radius
        delta = pgd(objective, x, torch.zeros_like(x), epsilon=epsilon, step=epsilon / 4, steps=30, norm="l2")
        return net(x + delta).argmax(1) != predicted

    assert not attack(1.0).any()
    assert attack(100.0).any()


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
        v = power_step(layer, v)
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
        nn.MaxPool2d(2),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        OddLinear(4, 4),
        nn.Dropout(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_bound_are_named(layer: nn.Module) -> None:
    net = a_net(create("ce"))
    net.body = nn.Sequential(layer.double(), *net.body)
    answer = lipschitz_radius(net, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    assert isinstance(answer, NotApplicable) and type(layer).__name__ in answer.reason
    with pytest.raises(MarginbenchError, match=type(layer).__name__):
        create("lmt").build(net, TASK)


def test_no_certificate_for_broken_weights_or_other_heads() -> None:
    net = a_net(create("ce"))
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    assert isinstance(lipschitz_radius(net, x), NotApplicable)
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head, nn.Softmax(1))
    assert isinstance(lipschitz_radius(net, x), NotApplicable)
    with pytest.raises(MarginbenchError, match="linear head"):
        create("lmt").build(net, TASK)
