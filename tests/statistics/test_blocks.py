"""Ranks across suites: against scipy, enumeration, and numbers known from the literature."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from marginbench.benchmarks.statistics.blocks import blocks_needed, ranking, signed_rank
from marginbench.benchmarks.statistics.level import level


def test_fewer_blocks_than_needed_reject_nothing() -> None:
    """15 for all pairs of 35 rows and 11 against a baseline; so many do it, if every block agrees."""
    assert blocks_needed(595) == 15 and blocks_needed(34) == 11
    for comparisons in range(1, 2000):
        needed = blocks_needed(comparisons)
        smallest = [comparisons * signed_rank(np.arange(1.0, blocks + 1)) for blocks in (needed - 1, needed)]
        assert smallest[1] < 0.05 <= smallest[0]


def test_signed_rank_is_that_of_scipy_without_ties() -> None:
    stream = np.random.default_rng(0)
    for blocks in (1, 2, 5, 8, 20):
        d = stream.normal(size=blocks) + 0.3
        assert signed_rank(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, rel=1e-9)
        assert signed_rank(d) == signed_rank(-d)


def test_signed_rank_with_ties_counts_all_signs() -> None:
    d = np.array([0.5, 0.5, -0.5, 1.0, 2.0, 2.0, 0.0])
    kept = d[d != 0]
    ranks = stats.rankdata(np.abs(kept))
    seen = ranks[kept > 0].sum()
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product((0, 1), repeat=6)]
    below, above = (sum(map(test, sums)) / 64 for test in (lambda s: s <= seen, lambda s: s >= seen))
    assert signed_rank(d) == min(1.0, 2 * min(below, above))
    assert signed_rank(np.zeros(4)) == 1.0


def test_ranking_on_numbers_computed_by_hand() -> None:
    better = np.array([[0.9, 0.8, 0.7], [0.6, 0.6, 0.5], [0.3, 0.2, 0.1], [0.4, 0.1, 0.2]])
    found = ranking(better)
    assert found.average_ranks == [1.125, 2.125, 2.75]
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*better.T).pvalue)
    assert found.cliques == [[0, 1, 2]], "four blocks tell nothing apart"
    assert "no pair of rows can be told apart: all pairs of 3 rows need 7 suites" in found.power
    assert (found.p == found.p.T).all()


def test_the_critical_difference_is_that_of_demsar() -> None:
    """His example: four rows in 14 blocks, q = 2.569, CD = 1.25."""
    found = ranking(np.random.default_rng(0).normal(size=(14, 4)))
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), rel=1e-3)


def test_enough_blocks_tell_rows_apart() -> None:
    stream = np.random.default_rng(1)
    better = stream.normal(size=(16, 4)) * 0.1 + np.array([3.0, 0.0, 3.0, 0.0])
    found = ranking(better)
    assert sorted(map(sorted, found.cliques)) == [[0, 2], [1, 3]]
    assert sorted(found.cliques[0]) == [0, 2], "the best first"
    assert found.friedman_p < 1e-6 and "pairs of rows can be told apart" in found.power


def test_equal_rows_are_told_apart_in_at_most_five_per_cent() -> None:
    stream = np.random.default_rng(2)
    alarms = sum((ranking(stream.normal(size=(12, 4))).p < 0.05).any() for _ in range(200))
    assert alarms / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_two_rows_in_one_block_are_ranked() -> None:
    found = ranking(np.array([[1.0, 2.0]]))
    assert found.average_ranks == [2.0, 1.0] and math.isnan(found.friedman_p) and found.cliques == [[1, 0]]


def test_what_differs_by_rounding_is_tied() -> None:
    """Means of the same counts, added in another order."""
    counts = np.array([[355, 354, 354], [356, 354, 353], [354, 354, 355], [350, 350, 350]])
    means = np.array([[sum(count / 360 for count in row) / 3 for row in counts]])
    assert len(set(means[0, :3])) > 1, "the test needs rounding"
    assert ranking(means).ranks.tolist() == [[2.0, 2.0, 2.0, 4.0]]
    a, b = level(np.array([[0.3, 0.5, 0.7, 0.1 + 0.2], [0.1, 0.3, 0.5, 0.3]]))
    assert signed_rank(a - b) == signed_rank(np.array([1.0, 1.0, 1.0, 0.0]))


def test_what_differs_by_a_millionth_is_not_tied() -> None:
    means = np.array([[0.7, 0.7 + 1e-6, 0.7 - 1e-6, 1.0]])
    assert ranking(means).ranks.tolist() == [[3.0, 2.0, 4.0, 1.0]]
