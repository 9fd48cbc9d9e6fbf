"""Bounds know the networks: constants, radii of Lipschitz bounds and of CROWN, and the layer that has none."""

import pytest
import torch
from net_support import attacked, build, images, least_gap, trained
from support import a_query, reference
from torch import nn

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.certificates.lipschitz import lipschitz
from marginbench.methods import Residual, Subsample
from marginbench.methods.maths.estimate import estimate, keep_vectors
from marginbench.methods.maths.lipschitz import feature_bound, flat, layer_bound


def test_dropout_does_not_count_in_lipschitz_constants_for_training() -> None:
    found = []
    for name in ("wrn_16_4", "wrn_16_4_dropout"):
        net = build(name)
        keep_vectors(net, (3, 8, 8))
        found.append(torch.as_tensor(estimate(net.train().body, {})).item())
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("size", [8, 7])
def test_the_mean_of_four_pixels_halves_the_constant_of_a_shortcut(size: int) -> None:
    striding, averaging = build("wrn_16_4_dropout", (3, size, size)), build("wrn_16_4_lmt", (3, size, size))
    averaging.load_state_dict(dict(zip(averaging.state_dict(), striding.state_dict().values(), strict=True)))
    shortcuts = []
    for net in (striding.eval().requires_grad_(False), averaging.eval().requires_grad_(False)):
        blocks = [module for module in net.modules() if isinstance(module, Residual)]
        shortcuts.append([block.shortcut for block in blocks if not isinstance(block.shortcut, nn.Identity)])
    x = torch.rand(2, 3, size, size)
    assert not torch.allclose(striding(x), averaging(x))  # the twin, without means
    factors = []
    for plain, pooled, side in zip(*shortcuts, (size, size, -(-size // 2)), strict=True):
        inputs = torch.rand(1, next(plain.parameters()).shape[1], side, side)
        assert plain(inputs).shape == pooled(inputs).shape
        exact = [
            torch.linalg.svdvals(reference("lmt").matrix(path.double(), inputs.shape))[0] for path in (plain, pooled)
        ]
        bounds = [feature_bound(flat(path), inputs.double()) for path in (plain, pooled)]
        for bound, value in zip(bounds, exact, strict=True):
            assert value <= bound <= 1.01 * value
        factors.append(float(bounds[1] / bounds[0]))
    assert factors == pytest.approx([1, 0.5, 0.5], rel=1e-2)


def test_the_shortcut_keeps_every_second_pixel_and_adds_zeros() -> None:
    x = torch.rand(2, 3, 5, 6)
    layer = Subsample(3, 8)
    out = layer(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2]) and not out[:, 3:].any()
    assert not list(layer.parameters())
    assert float(layer_bound(layer, x[:1])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_bound_of_a_fixed_convolution_is_that_of_its_kernel(factor: float) -> None:
    layer = Subsample(2, 4)
    layer.kernel.mul_(factor)
    assert float(layer_bound(layer, torch.rand(1, 2, 8, 8))) == pytest.approx(factor, abs=1e-8)
    assert float(layer_bound(layer, torch.rand(1, 2, 40, 40))) == pytest.approx(factor, abs=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "wrn_16_4",
        "wrn_16_4_dropout",
        "wrn_16_4_lmt",
        "preact_resnet18",
        "vgg16_bn",
        "lenet5",
        "lenet5_madry",
    ],
)
def test_lipschitz_radii_hold(name: str) -> None:
    net, x, y = trained(name)
    radius = lipschitz(a_query(net.decision_net(), x, y, "l2")).lower
    assert radius is not None and (radius > 0).all()
    net, x = net.double(), x.double()
    start = least_gap(net, x, y)
    for share in (1.0, 1e3):  # far outside, the attack must be able to do harm
        found = least_gap(net, attacked(net, x, y, share * radius.double(), "l2"), y)
        assert (found <= start).all()
        assert share > 1 or (found > 0).all()


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v2", "resnet50"])
def test_groups_relu6_and_bottlenecks_have_a_lipschitz_bound(name: str) -> None:
    net, x = build(name).eval().decision_net(), images(name, 2)
    answer = lipschitz(a_query(net, x, net(x).argmax(1), "l2"))
    assert answer.lower is not None and (answer.lower > 0).all(), answer.reason


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18"])
def test_crown_bounds_residual_networks(name: str, norm: str) -> None:
    net, x, y = trained(name)
    radius = crown(a_query(net.decision_net(), x[:2], y[:2], norm)).lower
    assert radius is not None and (radius > 1e-3).all()
    net, x = net.double(), x[:2].double()
    assert (least_gap(net, attacked(net, x, y[:2], radius.double(), norm), y[:2]) > 0).all()
