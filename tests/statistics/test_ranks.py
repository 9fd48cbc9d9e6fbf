"""Intervals of ranks, and fronts, against slow definitions."""

import itertools
import math

import numpy as np

from marginbench.benchmarks.statistics.fronts import front
from marginbench.benchmarks.statistics.ranks import rank_intervals


def test_ranks_follow_from_the_rows_that_are_better_and_worse() -> None:
    means = np.array([3.0, 2.0, 1.9, 0.0])
    better = means[:, None] - means
    certain = np.where(np.abs(better) > 0.5, 0.001, 1.0)
    assert rank_intervals(better, certain) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert rank_intervals(better, np.ones((4, 4))) == [(1, 4)] * 4
    assert rank_intervals(np.zeros((1, 1)), np.ones((1, 1))) == [(1, 1)]


def test_rows_that_cannot_be_compared_may_all_be_better() -> None:
    means = np.array([3.0, 2.0, 1.9, 0.0])
    better = means[:, None] - means
    certain = np.where(np.abs(better) > 0.5, 0.001, 1.0)
    assert rank_intervals(better, certain, 2) == [(1, 3), (2, 5), (2, 5), (4, 6)]


def test_holms_correction_is_over_the_comparisons_of_the_row() -> None:
    better = np.arange(11.0)[:, None] - np.arange(11.0)
    p = np.ones((11, 11))
    p[0, 10] = p[10, 0] = 0.006  # x 10 comparisons
    assert rank_intervals(better, p)[0] == (1, 11)
    p[0, 10] = p[10, 0] = 0.0048  # x 11 would be above 0.05
    assert rank_intervals(better, p)[0] == (2, 11) and rank_intervals(better, p)[10] == (1, 10)


def test_a_front_is_what_nothing_beats() -> None:
    stream = np.random.default_rng(0)
    for size in (0, 1, 2, 5, 20):
        points = [(float(a), float(b)) for a, b in stream.integers(5, size=(size, 2))]
        wanted = [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]
        assert front(points) == wanted
    assert front([(1.0, math.nan), (0.0, 0.0), (math.nan, 2.0)]) == [False, True, False]
    for points in itertools.permutations([(1.0, 1.0), (2.0, 0.0), (1.0, 0.5)]):
        assert [point for point, on in zip(points, front(points), strict=True) if on] != [] and not dict(
            zip(points, front(points), strict=True)
        )[1.0, 0.5]
