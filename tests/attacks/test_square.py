"""Square: windows as in the paper and in AutoAttack, as strong as torchattacks' one, restarts that differ."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attack_support import found, images, predicted, propose, propose_by, random_net
from torch import Tensor, nn

from marginbench.benchmarks.attacks import _windows as windows
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.ray import distance, is_adversarial
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.attacks.square import SCHEDULE, schedule
from marginbench.methods import NORMS, Norm

EPSILON = 0.3


def library(**facts: Any) -> Any:
    """torchattacks' Square without a network, as a namespace, and its class."""
    import torchattacks

    return torchattacks.Square, SimpleNamespace(device="cpu", **facts)


def a_step(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images in the box, points at most EPSILON away in L2, and uniform numbers."""
    draw = torch.Generator().manual_seed(4)
    x = torch.rand(6, *shape, generator=draw)
    delta = torch.randn(x.shape, generator=draw)
    length = 0.9 * EPSILON / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return x, (x + length * delta).clamp(0, 1), torch.rand(6, 20, generator=draw)


@pytest.mark.parametrize("side", range(2, 12))
def test_a_tile_is_a_hill_and_a_hollow(side: int) -> None:
    """Slow reference: sums of squares around the middle, in the code of AutoAttack."""
    cls, one = library()
    wanted = torch.zeros(side, side)
    wanted[: side // 2] = cls.eta_rectangles(one, side // 2, side)
    wanted[side // 2 :] = -cls.eta_rectangles(one, side - side // 2, side)
    torch.testing.assert_close(windows.eta(side), wanted / wanted.norm(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("queries", "original"), [(100, False), (5000, True), (12_000, True), (777, False)])
def test_the_schedule_is_that_of_autoattack(queries: int, original: bool) -> None:
    cls, one = library(rescale_schedule=not original, n_queries=queries, p_init=0.8)
    wanted = [cls.p_selection(one, query) for query in range(queries)]
    assert schedule(queries, SCHEDULE if original else queries) == wanted


@pytest.mark.parametrize("share", [0.8, 0.2, 0.01])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_of_linf_is_recoloured(channels: int, share: float) -> None:
    x, _, u = a_step((channels, 7, 9))
    point = windows.stripes(x, EPSILON, u[:, :1].repeat(1, channels * 9))
    side = max(round((share * 63) ** 0.5), 1)
    wanted = point.clone()
    for one, row in zip(range(len(x)), u, strict=True):
        top, left = int(row[0] * (7 - side)), int(row[1] * (9 - side))
        for channel in range(channels):
            sign = -1 if row[2 + channel] < 0.5 else 1
            for i in range(top, top + side):
                for j in range(left, left + side):
                    moved = point[one, channel, i, j] + 2 * EPSILON * sign
                    centre = x[one, channel, i, j]
                    wanted[one, channel, i, j] = min(max(moved, centre - EPSILON, 0), centre + EPSILON, 1)
    found = windows.recolour(x, point, EPSILON, share, u[:, : 2 + channels])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert not torch.equal(found, point)


@pytest.mark.parametrize("share", [0.8, 0.2, 0.01])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_of_l2_gets_the_length_of_another(channels: int, share: float) -> None:
    """Algorithm 3 of the paper, image by image and channel by channel, in float64."""
    x, point, u = a_step((channels, 8, 8))
    side = max(round((share * 64) ** 0.5), 3)
    side += side % 2 == 0
    tile = windows.eta(side).double()
    wanted = x.double()
    for one, row in zip(range(len(x)), u, strict=True):
        delta = (point - x)[one].double()
        top, left, top2, left2 = (int(value * (8 - side)) for value in row[:4])
        first, second = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
        first[top : top + side, left : left + side] = True
        second[top2 : top2 + side, left2 : left2 + side] = True
        moved = delta.clone()
        moved[:, second] = 0
        for channel in range(channels):
            before = delta[channel][first]
            sign = -1 if row[5 + channel] < 0.5 else 1
            new = sign * (tile.T if row[4] > 0.5 else tile).flatten() + before / before.norm()
            spare = max(EPSILON**2 - float(delta.square().sum()), 0) / channels
            moved[channel][first] = new / new.norm() * (spare + delta[channel][first | second].square().sum()).sqrt()
        wanted[one] = (wanted[one] + EPSILON * moved / moved.norm()).clamp(0, 1)
    found = windows.shift(x, point, EPSILON, share, u[:, : 5 + channels])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 14, 14), (1, 4, 6), (2, 3, 2), (1, 1, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_all_points_stay_in_the_ball_and_in_the_box(norm: Norm, shape: tuple[int, int, int]) -> None:
    """Images that are not square and those of 14 x 14 pixels, which the library cannot treat, are no exception."""
    x, draw = torch.rand(5, *shape, generator=torch.Generator().manual_seed(6)), torch.Generator().manual_seed(7)
    way = windows.WINDOWS[norm]
    point = way.start(x, EPSILON, torch.rand(5, way.start_numbers(shape), generator=draw))
    for share in schedule(40, 40):
        assert (distance(point.double() - x.double(), norm) <= EPSILON * (1 + 1e-5)).all()
        assert point.isfinite().all() and point.min() >= 0 and point.max() <= 1
        point = way.move(x, point, EPSILON, share, torch.rand(5, way.move_numbers(shape), generator=draw))
    assert not torch.equal(point, x)


@pytest.mark.parametrize("norm", NORMS)
def test_as_many_images_are_found_as_by_the_library(norm: Norm) -> None:
    net, x = random_net(30), images(30, 150, 1.0)
    y = predicted(net, x)
    radius = 1.3 * float(found("deepfool", net, x, y, norm).median())

    def theirs(model: nn.Module, norm: str, epsilon: float) -> Any:
        import torchattacks

        return torchattacks.Square(model, norm=norm, eps=radius, n_queries=150, loss="margin")

    shares = []
    rivals: list[tuple[Attack, dict[str, Any]]] = [(foreign(theirs), {}), (ATTACKS["square"], {"n_queries": 150})]
    for attack, settings in rivals:
        point = propose_by(attack, net, x, y, norm, epsilon=radius, **settings)
        shares.append(float(is_adversarial(net, point, y).float().mean()))
    assert 0.2 < shares[0] < 0.9 and abs(shares[0] - shares[1]) < 0.07, shares


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_differ_and_images_that_resist_stay_as_they_are(norm: Norm) -> None:
    net, x = random_net(31), images(31, 100, 1.0)
    y = predicted(net, x)
    radius = 1.2 * float(found("deepfool", net, x, y, norm).median())
    one, many = (propose("square", net, x, y, norm, epsilon=radius, n_queries=8, restarts=n) for n in (1, 8))
    counts = [int(is_adversarial(net, point, y).sum()) for point in (one, many)]
    assert counts[1] >= counts[0] + 10, counts
    resists = ~is_adversarial(net, many, y)
    assert resists.any() and torch.equal(many[resists], x[resists])
