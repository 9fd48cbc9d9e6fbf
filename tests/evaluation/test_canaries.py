"""The margins of the canaries are right: other ways to find them agree, and the networks are what they claim to be."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from marginbench.benchmarks.evaluation.canaries import linear, unused
from marginbench.benchmarks.evaluation.canary import Canary, linear_margins, to_planes
from marginbench.benchmarks.evaluation.conv_canaries import (
    _WrittenOut,
    convolutions,
    pooled,
    residual,
    solve,
    written_out,
)
from marginbench.benchmarks.evaluation.hard_canaries import lottery, ripples
from marginbench.methods import NORMS, Norm


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_in_the_box_is_as_far_as_a_search_finds(norm: Norm) -> None:
    """Two pixels: all points of a fine grid of the box."""
    x = torch.tensor([[0.1, 0.6]], dtype=torch.float64)
    normal, gap = torch.tensor([[[-3.0, 1.0]]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
    side = torch.linspace(0, 1, 2001, dtype=torch.float64)
    points = torch.cartesian_prod(side, side) - x
    beyond = points[(points * normal[0, 0]).sum(1) >= 0.5]
    sizes = beyond.norm(dim=1) if norm == "l2" else beyond.abs().amax(1)
    found = to_planes(x, normal, gap, norm)
    assert float(found) == pytest.approx(float(sizes.min()), abs=1e-3)
    free = 0.5 / (10**0.5 if norm == "l2" else 4)
    assert float(found) > 1.05 * free  # the wall is in the way


def test_a_plane_beyond_the_box_is_out_of_reach() -> None:
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    assert to_planes(one[0] / 2, one, one[0, :, :1] * 1.1, "l2").tolist() == [torch.inf]


def test_a_gelu_is_the_identity_in_the_whole_box() -> None:
    made = written_out()
    (layer,) = made.net.body
    assert isinstance(layer, _WrittenOut)
    least: list[float] = []
    layer.conv.register_forward_hook(lambda _, __, out: least.append(float(out.min()) + layer.lift))
    corners = torch.randint(0, 2, (2000, *made.data.shape), generator=torch.Generator().manual_seed(0)).float()
    worst = (layer.conv.weight[:, 0, None] < 0).float().repeat(1, 1, 2, 2)  # the least response in one corner
    with torch.no_grad():
        made.net(torch.cat([corners, worst]))
    assert min(least) >= 10


def test_a_masked_class_leaves_the_margins_as_they_are() -> None:
    made, plain = unused(), linear()
    x = made.data.test.images(slice(None))
    with torch.no_grad():
        assert torch.equal(made.net(x)[:, :-1], plain.net(x)) and bool((made.net(x)[:, -1] == -torch.inf).all())
    assert all(torch.equal(made.exact[norm], plain.exact[norm]) for norm in NORMS)
    assert torch.equal(made.data.test.y, plain.data.test.y)


@pytest.mark.parametrize("canary", [convolutions, residual])
def test_every_relu_is_on_in_the_whole_box(canary: object) -> None:
    made = canary()  # type: ignore[operator]
    least = []
    for layer in made.net.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _, inputs, __: least.append(float(inputs[0].min())))
    corners = torch.randint(0, 2, (2000, *made.data.shape), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        made.net(torch.cat([corners, torch.zeros_like(corners[:1]), torch.ones_like(corners[:1])]))
    assert least and min(least) > 0


def test_walls_change_the_margins_of_the_convolutions() -> None:
    """Without the box most margins would be shorter by a tenth: a clamp that is missing shows."""
    made = convolutions()
    x = made.data.test.images(slice(None)).double().requires_grad_()
    z = made.net.double()(x)
    rival = z.scatter(1, made.data.test.y[:, None], -torch.inf).argmax(1, keepdim=True)
    gap = (z.gather(1, made.data.test.y[:, None]) - z.gather(1, rival))[:, 0]
    (gradient,) = torch.autograd.grad(gap.sum(), x)
    free = gap.detach() / gradient.flatten(1).norm(dim=1)
    assert float((free < 0.9 * made.exact["l2"]).float().mean()) > 0.5


def test_a_program_agrees_with_the_ripples() -> None:
    made = ripples()
    index = slice(0, 24, 8)
    found = solve(made.net, made.data.test.images(index), made.data.test.y[index])
    torch.testing.assert_close(found, made.exact["linf"][index], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("make", [pooled, written_out])
def test_the_pooled_maximum_is_that_of_its_planes(make: Callable[[], Canary]) -> None:
    """A step of the known length towards the nearest plane, and a little beyond, changes the class."""
    made = make()
    known = made.exact["l2"].isfinite()
    assert set(made.data.test.y.tolist()) == {0, 1, 2, 3} and bool((known == (made.data.test.y == 0)).all())
    x = made.data.test.images(slice(None))[known].requires_grad_()
    z = made.net(x)
    (gradient,) = torch.autograd.grad((z[:, 1:].amax(1) - z[:, 0]).sum(), x)
    assert bool((z[:, 0] >= z[:, 1:].amax(1)).all())
    step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    length = made.exact["l2"][known].float().view(-1, 1, 1, 1)
    with torch.no_grad():
        changed = made.net((x + 1.001 * length * step).clamp(0, 1)).argmax(1) != 0
        kept = made.net((x + 0.999 * length * step).clamp(0, 1)).argmax(1) == 0
    assert bool(kept.all()) and bool(changed.any())  # walls, and other planes than the steepest, are nearer than this


def test_the_lottery_has_a_lucky_side() -> None:
    game = lottery()
    moved = game.x.clone()
    for s, wins in ((0.81, True), (0.79, False), (-1.0, False)):
        moved[:, 0, 2, 2] = 0.5 + s * game.epsilon
        assert bool((game.net(moved).argmax(1) != game.y).all()) == wins
    x = game.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(game.net(x)[:, 1].sum(), x)
    assert bool((gradient[:, 0, 2, 2] < 0).all())


def test_linear_margins_are_distances_to_the_nearest_plane() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.75, 0.5]])
    margins = linear_margins(weight, torch.zeros(2, dtype=torch.float64), x)
    assert float(margins["linf"]) == pytest.approx(0.125) and float(margins["l2"]) == pytest.approx(0.25 / 2**0.5)
