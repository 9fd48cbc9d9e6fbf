"""Where attacks start: behind the boundary, in every class that the reference images have, or in noise."""

from dataclasses import replace

import pytest
import torch
from attack_support import Constant, images, predicted, random_net
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks import _together
from marginbench.benchmarks.attacks._linear import LARGEST
from marginbench.benchmarks.attacks._starts import boundary_starts, from_each, starting_points
from marginbench.benchmarks.attacks.ray import Closest, distance, is_adversarial
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
from marginbench.methods import NORMS, Norm


def a_start(norm: Norm, reference: int = 60) -> Query:
    net, x = random_net(20), images(20, 12, 0.4)
    return a_query(net, x, predicted(net, x), norm, seed=1, epsilon=0.1, reference=images(9, 60, 1.0)[:reference])


@pytest.mark.parametrize("norm", NORMS)
def test_each_class_gives_a_start_and_the_nearest_comes_first(norm: Norm) -> None:
    q = a_start(norm)
    classes = set(predicted(q.net, q.reference).tolist())
    starts = boundary_starts(q, 9)
    assert len(starts) == len(classes) - 1 > 3
    far = torch.stack([distance(start.double() - q.x.double(), norm) for start in starts])
    assert len(boundary_starts(q, 2)) == 2
    for row in range(len(q.x)):
        own = int(q.y[row])
        reached = [bool(is_adversarial(q.net, s[row : row + 1], q.y[row : row + 1])) for s in starts]
        assert sum(reached) >= len(classes - {own})
        lengths = far[:, row][torch.tensor(reached)]
        assert torch.equal(lengths[: len(classes - {own})], lengths[: len(classes - {own})].sort().values)


@pytest.mark.parametrize("norm", NORMS)
def test_without_reference_images_it_is_noise(norm: Norm) -> None:
    q = a_start(norm, reference=0)
    (start,) = boundary_starts(q, 3)
    moved = distance(start.double() - q.x.double(), norm)
    assert (moved > 0.05).all() and start.min() >= 0 and start.max() <= 1
    own = replace(q, net=Constant(5, graph=True), y=torch.zeros_like(q.y), reference=q.x)
    (start,) = boundary_starts(own, 3)
    assert (distance(start.double() - q.x.double(), norm) > 0.05).all(), "a single class: no line crosses a boundary"


def test_x_is_a_start_only_where_it_has_a_gradient() -> None:
    q = a_start("l2")
    (first, second), (nearest, free) = starting_points(q, 2)
    assert torch.equal(first, q.x) and torch.equal(second, boundary_starts(q, 2)[0])
    assert (nearest[:, 0] != q.y).all() and (nearest >= 0).all() and (free == LARGEST).all()
    flat = replace(q, net=Constant(5, graph=True), y=torch.zeros_like(q.y))
    (first, *_), rivals = starting_points(replace(flat, generator=torch.Generator().manual_seed(5)), 2)
    assert not torch.isclose(first, q.x).flatten(1).all(1).any() and all((rival == LARGEST).all() for rival in rivals)


def test_starts_together_or_one_by_one_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image keeps the closest point of all starts; `more` goes with them."""
    q = a_start("l2")
    starts = [(q.x + shift).clamp(0, 1) for shift in (0.3, 0.1, 0.2)]
    shares = [torch.full((len(q.x),), share) for share in (1.0, 2.0, 1.0)]
    batches: list[int] = []

    def descend(part: Query, start: torch.Tensor, share: torch.Tensor) -> Closest:
        batches.append(len(part.x))
        closest = Closest(part.x, part.norm)
        closest.offer((part.x + share.view(-1, 1, 1, 1) * (start - part.x)).clamp(0, 1), share > 0)
        return closest

    together = from_each(q, descend, starts, shares)
    monkeypatch.setattr(_together, "ROWS", 1)
    alone = from_each(q, descend, starts, shares)
    assert batches == [36, 12, 12, 12]
    assert torch.equal(together.point, alone.point) and torch.equal(together.distance, alone.distance)
    torch.testing.assert_close(together.point, starts[2])


@pytest.mark.parametrize("name", ["fmn", "blend"])
def test_no_more_reference_images_at_once_than_fit(name: str) -> None:
    q = a_start("l2")
    most = 0

    def count(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal most
        most = max(most, len(inputs[0]))

    wanted = ATTACKS[name].propose(q)
    q.net.register_forward_pre_hook(count)
    found = ATTACKS[name].propose(replace(q, fitting=len(q.x), generator=a_start("l2").generator))
    assert most == len(q.x) < len(q.reference)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
