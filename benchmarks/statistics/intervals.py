"""95 % intervals of a mean over seeds."""

import math
from collections.abc import Sequence

from marginbench.benchmarks.statistics.level import SHARE
from marginbench.benchmarks.statistics.paired import mean_and_interval


def interval(values: Sequence[float], points: int | None = None) -> tuple[float, float]:
    """Lower and upper end of the 95 % interval of the mean, NaN below three seeds.

    Student's interval over seeds. Near 0 and 1 it fails: shares of 0 in all seeds have no spread, and others would
    reach beyond [0, 1]. There, and wherever shares are equal but for rounding, the interval is cut to [0, 1] and
    widened to that of Clopper and Pearson (Biometrika 26, 1934) for the mean share of the N test points. Seeds share
    the points, so that n seeds count as N points, not as n N. Wilson's interval would be a little narrower, but covers
    as little as 84 % where one point in N is right, which is the very case; that of Clopper and Pearson covers at least
    95 % everywhere.

    Args:
        values: the mean over points of each seed.
        points: N, of a share; None for other numbers.
    """
    mean, half = mean_and_interval(values)
    if half is None:
        return math.nan, math.nan
    low, high = mean - half, mean + half
    if points is None or (max(values) - min(values) > SHARE and low >= 0 and high <= 1):
        return low, high
    least, most = clopper_pearson(mean, points)
    return min(max(low, 0.0), least), max(min(high, 1.0), most)


def clopper_pearson(share: float, points: int) -> tuple[float, float]:
    """95 % interval of a probability that came true in a share of N independent points, of a whole number or not."""
    from scipy.special import betaincinv

    true, false = share * points, (1 - share) * points
    low = float(betaincinv(true, false + 1, 0.025)) if true > 0 else 0.0
    high = float(betaincinv(true + 1, false, 0.975)) if false > 0 else 1.0
    return low, high
