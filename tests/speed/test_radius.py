"""The table of radii: a search counts once, all steps of the bisection do, and differences are relative to it."""

import sys

import pytest
from support import a_query
from torch import Tensor, nn, tensor, zeros

from marginbench.benchmarks.certificates import _bounds, crown
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.speed import radius as radius_speed
from marginbench.benchmarks.speed.radius import Found, compare
from marginbench.benchmarks.speed.turns import Turns


def test_the_row_says_what_was_found() -> None:
    """Radii of 1, 2, 4 and 0 by bisection; the search is exact, 5 % below, 50 % above, and finds one more."""
    bisection = Found(tensor([1.0, 2.0, 4.0, 0.0]), tensor([12.0, 12.0, 12.0, 12.0]))
    search = Found(tensor([1.0, 1.9, 6.0, 0.1]), tensor([2.0, 3.0, 8.0, 3.0]))
    early = Found(tensor([0.0] * 4), tensor([4.0] * 4))
    race = Turns({"search": [1.0, 3.0], "bisection": [5.0, 9.0]}, {"search": [search], "bisection": [early, bisection]})
    expected = (4.0, 2.0, 12.0, 14.0, 7.0, 0.05, 0.5, 1 / 3, 0.25)
    assert compare(race) == pytest.approx(expected)


def test_bounds_of_crown_alone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search computes a cheaper bound for both images, and CROWN twice for the second."""

    def certified_radius(q: Query, search: _bounds.Search) -> Tensor:
        for bound, index in (("CROWN-IBP", [0, 1]), ("CROWN", [1]), ("CROWN", [1])):
            search.watch(bound, tensor(index))
        return tensor([0.5, 1.0])

    monkeypatch.setattr(crown, "certified_radius", certified_radius)
    found = radius_speed._search(a_query(nn.Sequential(), zeros(2, 1, 2, 2), tensor([0, 0]), "l2"))
    assert found.radius.tolist() == [0.5, 1.0] and found.bounds.tolist() == [0.0, 2.0]


def test_both_find_the_same_radii(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["radius.py", "--methods", "ce", "--points", "5", "--device", "cpu"])
    radius_speed.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert [row[:2] for row in rows] == [["ce", "l2"], ["ce", "linf"]]
    for row in rows:
        assert 0 < float(row[2]) <= radius_speed.ROUNDS
        assert float(row[4]) == radius_speed.STEPS
        assert float(row[8].rstrip("%")) < 2.0, "the tolerance of the search, and what is left of the bracket"
