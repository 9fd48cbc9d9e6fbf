"""Means over seeds with their uncertainty."""

import math
from collections.abc import Sequence

MIN_FOR_INTERVAL = 3


def mean_and_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """Mean and half width of Student's interval of that level; the half width is None below three finite values.

    A mean over an infinite value is infinite, a mean over nothing is NaN.
    """
    if not values:
        return math.nan, None
    mean = math.fsum(values) / len(values)
    if len(values) < MIN_FOR_INTERVAL or not math.isfinite(mean):
        return mean, None
    from scipy.stats import t  # slow to import

    return mean, float(t.ppf((1 + level) / 2, len(values) - 1)) * standard_error(values)


def standard_error(values: Sequence[float]) -> float:
    """s / sqrt(n) of two values or more, with n - 1 in the variance s^2."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
