"""Intervals of means over seeds: Student's, and near 0 and 1 that of Clopper and Pearson."""

import math

import numpy as np
import pytest
from scipy import stats

from marginbench.benchmarks.statistics.intervals import clopper_pearson, interval


def test_in_the_middle_it_is_students() -> None:
    values = [0.5, 0.55, 0.62]
    wanted = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert interval(values, 360) == pytest.approx(wanted) and interval(values) == pytest.approx(wanted)


def test_it_is_none_below_three_seeds_and_where_a_value_is_not_finite() -> None:
    for values in ([], [0.5], [0.5, 0.6], [0.5, 0.6, math.nan], [0.5, 0.6, math.inf]):
        assert all(map(math.isnan, interval(values, 360)))


@pytest.mark.parametrize(("true", "points"), [(0, 360), (1, 360), (7, 20), (360, 360)])
def test_clopper_and_pearson_are_scipys(true: int, points: int) -> None:
    wanted = stats.binomtest(true, points).proportion_ci(method="exact")
    assert clopper_pearson(true / points, points) == pytest.approx((wanted.low, wanted.high))


def test_near_zero_and_one_it_stays_within_and_has_a_width() -> None:
    low, high = interval([0.0, 0.0, 0.0], 360)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 360)), "as if the seeds were one: they share the points"
    assert interval([1.0, 1.0, 1.0], 360) == pytest.approx((1 - high, 1.0))
    low, high = interval([0.0, 0.0, 0.01], 360)  # Student's begins below 0
    assert 0 <= low < 0.01 / 3 and high == pytest.approx(0.01 / 3 + 4.302652729749462 * 0.01 / 3)
    low, high = interval([0.4, 0.4, 0.4], 360)
    assert (low, high) == pytest.approx(clopper_pearson(0.4, 360)), "no spread by chance is no certainty"


def test_shares_that_differ_by_rounding_alone_have_no_spread() -> None:
    shares = [a / 360 - b / 360 for a, b in ((104, 0), (105, 1), (186, 82))]
    assert len(set(shares)) > 1, "the test needs such shares"
    assert interval(shares, 360) == pytest.approx(clopper_pearson(104 / 360, 360))
    assert interval([0.0, 1e-17, -1e-17], 360) == pytest.approx((0.0, clopper_pearson(0.0, 360)[1]))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
def test_it_covers_the_share(share: float) -> None:
    """Networks that agree on every point: what is left is the chance of the points."""
    stream = np.random.default_rng(0)
    hits = 0
    for true in stream.binomial(360, share, size=1000):
        low, high = interval([true / 360] * 3, 360)
        hits += low <= share <= high
    assert hits / 1000 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_other_numbers_may_be_negative() -> None:
    low, _ = interval([-0.1, 0.0, 0.1])
    assert low < 0 and interval([0.2, 0.2, 0.2]) == pytest.approx((0.2, 0.2))
