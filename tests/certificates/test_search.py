"""The search for the largest verified radius, on margins whose root is known."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.certificates import _search


def search(
    shape: Callable[[Tensor], Tensor], root: Tensor, linear: Tensor, upper: Tensor, **settings: float
) -> tuple[Tensor, Tensor]:
    """Radii on the margins shape(radius / root), and the calls for each image; every radius has been verified."""
    calls, best = torch.zeros(len(root)), torch.zeros(len(root))

    def margin(radius: Tensor, index: Tensor) -> Tensor:
        calls[index] += 1
        value = shape(radius / root[index])
        best[index] = torch.where(value > 0, torch.maximum(best[index], radius), best[index])
        return value

    limits: dict[str, Any] = {"cap": 4.0, "rounds": 8, "tolerance": 0.01} | settings
    found = _search.largest_verified(margin, torch.ones(len(root)), linear, upper, _search.Limits(**limits))
    assert torch.equal(found, best)
    return found, calls


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: 1 - t,
    "concave": lambda t: 1 - 0.4 * t - 0.6 * t**3,
    "very concave": lambda t: 1 - t**6,
    "convex": lambda t: 2 * torch.exp(-0.7 * t) - 1 + t * (1 - 2 * math.exp(-0.7)),
    "steps": lambda t: (torch.floor(50 * (1 - t)) + 0.5) / 50,
    "cliff": lambda t: torch.where(t < 1, 1.0, -torch.inf),
    "NaN": lambda t: torch.where(t < 1, 1 - 0.5 * t, torch.nan),
}
SMOOTH = ("linear", "concave", "very concave", "convex")
LEAST = {"convex": 0.985, "steps": 0.97}  # margins that end flatter than they began: the root seems nearer than it is


@pytest.mark.parametrize("name", SHAPES)
def test_search_on_known_margins(name: str) -> None:
    root = torch.logspace(-3, 0, 100)
    spread = torch.linspace(1.2, 2.5, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    rounds = 8 if name in SMOOTH else 14  # bisection, where the margin does not tell how far the root is
    found, calls = search(SHAPES[name], root, root * spread, 2 * root, rounds=rounds)
    assert (found <= root).all()
    assert (found >= LEAST.get(name, 0.99) * root).all()
    assert calls.max() < rounds  # none is stopped by the limit
    if name in SMOOTH:
        assert calls.mean() < 3.2


@pytest.mark.parametrize("s", [0.3, 0.6, 1.0])
def test_search_with_the_form_it_expects_takes_two_calls(s: float) -> None:
    root = torch.logspace(-3, 0, 100)
    found, calls = search(lambda t: 1 - s * t - (1 - s) * t ** (3.2 - 1.4 * s), root, root / s, 1.7 * root)
    assert (found >= 0.99 * root).all()
    assert calls[: _search.PILOTS[0]].eq(2).all()
    assert calls.max() == 2


def test_search_begins_at_the_share_of_the_pilots() -> None:
    root = torch.logspace(-3, 0, 132)
    begun: list[Tensor] = []

    def first_radii(t: Tensor) -> Tensor:
        begun.append(t)
        return 1 - 0.4 * t - 0.6 * t**3

    upper = 5 * root
    upper[::2] = torch.inf  # these go by the linear radius
    search(first_radii, root, 5 * root, upper)
    first, second = _search.PILOTS
    assert torch.allclose(begun[0], torch.full((first,), 3.5))
    for others in (second - first, len(root) - second):
        start = next(t for t in begun if len(t) == others)
        assert ((start > 0.98) & (start < 1)).all()


def test_search_at_its_limits() -> None:
    root, ones = torch.full((70,), 1e9), torch.ones(70)
    found, _ = search(lambda t: 1 - t, root, ones, torch.full((70,), torch.inf))
    assert (found == 4).all()  # the cap
    found, calls = search(lambda t: torch.full_like(t, torch.nan), root, ones, ones)
    assert (found == 0).all() and (calls == 8).all()
    found, calls = search(lambda t: 1 - t**6, ones, 9 * ones, 3 * ones, rounds=2)
    assert (calls == 2).all()  # the last radius may be one that was not verified, `search` compares

    def margin(radius: Tensor, index: Tensor) -> Tensor:
        assert set(index.tolist()) <= {1, 3}
        return 1 - radius

    zero = torch.tensor([-1.0, 1.0, torch.nan, 1.0, 0.0])
    found = _search.largest_verified(margin, zero, ones[:5], ones[:5], _search.Limits(4.0, rounds=8, tolerance=0.01))
    assert ((found > 0.98) == (zero > 0)).all() and (found[zero.nan_to_num() <= 0] == 0).all()
