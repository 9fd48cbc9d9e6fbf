"""What differs by rounding alone is level: in numbers, ties of tau and fronts."""

import math

import numpy as np
from made import LEVEL

from marginbench.benchmarks.statistics.association import kendall
from marginbench.benchmarks.statistics.fronts import front
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.statistics.paired import mean_and_interval

SMALLER, LARGER = (mean_and_interval(values)[0] for values in LEVEL)


def test_numbers_that_differ_by_rounding_are_equal() -> None:
    assert SMALLER < LARGER, "the test needs such numbers"
    a, b, c, d, e = levels([SMALLER, LARGER, 0.9, math.nan, math.inf])
    assert c < a == b < e == math.inf and math.isnan(d)
    assert len(set(levels([1.0, 1 + 1e-10, 1e-10]))) == 3, "no more than rounding"
    assert levels([]) == [] and levels([0.0, 0.0]) == [0.0, 0.0] and levels([math.nan])


def test_tau_takes_them_for_tied() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([LARGER, SMALLER, 0.99])
    assert kendall(x, y) == kendall(x, np.array([1.0, 1.0, 2.0])) == kendall(y, x)


def test_none_of_them_beats_another_on_a_front() -> None:
    assert front([(SMALLER, 1.0), (LARGER, 1.0), (1.0, SMALLER), (0.5, LARGER)]) == [True, True, True, False]
    assert front([(1.0, LARGER), (1.0, SMALLER)]) == [True, True]
