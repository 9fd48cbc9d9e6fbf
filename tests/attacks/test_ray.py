"""Distances, what counts as adversarial, and the search along a ray."""

from fractions import Fraction

import pytest
import torch
from attack_support import SHAPE, Constant, images, predicted, random_net
from torch import nn

from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.methods import NORMS


def test_tighten_stops_at_the_class_change() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval().requires_grad_(False)
    net[1].weight.data = torch.stack([torch.zeros(36), torch.eye(36)[0]])
    net[1].bias.data = torch.tensor([0.75, 0.0])  # class 1 from 0.75 on, in the first pixel
    x, y = torch.zeros(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    candidate = torch.zeros(4, *SHAPE)
    candidate[0, 0, 0, 0] = 1.0
    candidate[1, 0, 0, 0] = 7.0  # outside the box
    candidate[2] = torch.nan
    for norm in NORMS:
        point, reached = tighten(net, x, candidate, y, norm)
        assert reached[:2].tolist() == pytest.approx([0.75, 0.75], rel=1e-5)
        assert (reached[:2] >= 0.75).all()
        assert (reached[2:] == torch.inf).all()
        assert is_adversarial(net, point, y).tolist() == [True, True, False, False]
        assert torch.equal(point[2:], x[2:])


def test_attack_that_does_nothing_is_infinite() -> None:
    net, x = random_net(11), images(11, 10, 1.0)
    point, reached = tighten(net, x, x.clone(), predicted(net, x), "l2")
    assert (reached == torch.inf).all()
    assert torch.equal(point, x)


def test_ties_are_adversarial_only_if_the_prediction_changes() -> None:
    net = Constant(3, graph=False)
    x = images(12, 2, 1.0)
    assert is_adversarial(lambda a: 0 * net(a), x, torch.tensor([0, 1])).tolist() == [False, True]


def test_distance_is_never_below_the_true_one() -> None:
    a, b = images(13, 20, 1.0), images(14, 20, 1.0)
    a[0], b[0] = 1e-30, 0.0
    a[1] = b[1]
    delta = a.double() - b.double()
    exact = [
        [abs(Fraction(float(p)) - Fraction(float(q))) for p, q in zip(r.flatten(), s.flatten(), strict=True)]
        for r, s in zip(a, b, strict=True)
    ]
    for row, l2, linf in zip(exact, distance(delta, "l2"), distance(delta, "linf"), strict=True):
        squares = sum(e * e for e in row)
        assert Fraction(float(l2)) ** 2 >= squares
        assert Fraction(float(l2)) ** 2 <= squares * (1 + Fraction(1, 10**6))
        assert max(row) <= Fraction(float(linf)) <= max(row) * (1 + Fraction(1, 10**6))
