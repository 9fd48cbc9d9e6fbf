"""Statistics of tables: means over seeds with their uncertainty, and tests that two rows are equal."""

import math
from collections.abc import Sequence
from functools import cache

MIN_FOR_INTERVAL = 3
LEVEL = 0.05  # of the verdicts, over all columns of a table

# Quantiles of Student's t at 2, 3, ... degrees of freedom, scipy's to the bit: the import takes longer than a table.
_QUANTILES = {
    0.975: (
        4.302652729749462,
        3.1824463052837078,
        2.7764451051977934,
        2.5705818356363146,
        2.4469118511449786,
        2.364624251592784,
        2.306004135204166,
        2.262157162798205,
    ),
    0.9875: (
        6.205346816570706,
        4.176534846104503,
        3.4954059325164417,
        3.163381449748609,
        2.9686866841534867,
        2.841244248588211,
        2.751523596063054,
        2.6850108468164575,
    ),
}


def mean_and_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """Mean and half width of Student's interval of that level; the half width is None below three finite values.

    A mean over an infinite value is infinite, one over both infinities or over nothing is NaN.
    """
    n = len(values)
    if not n or {math.inf, -math.inf} <= set(values):
        return math.nan, None
    mean = math.fsum(values) / n
    if n < MIN_FOR_INTERVAL or not math.isfinite(mean):
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, quantile((1 + level) / 2, n - 1) * math.sqrt(variance / n)


@cache
def quantile(share: float, degrees: int) -> float:
    """The value that a share of Student's t distribution lies below."""
    known = _QUANTILES.get(share, ())
    if 2 <= degrees < 2 + len(known):
        return known[degrees - 2]
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def sign_test(above: int, below: int) -> float:
    """Two-sided p of the exact sign test: if neither is larger, `above` of the pairs that differ is binomial, 1/2.

    Of shares of the same points it is McNemar's exact test (Psychometrika 12, 1947). 1 where no pair differs.
    """
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: max over j <= i of min(1, (m - j + 1) p_(j)), with p_(1) <= ... <= p_(m).

    Rejecting those below 5 % keeps the chance of any false rejection at 5 %, however the tests depend on each other
    (Holm, Scandinavian Journal of Statistics 6, 1979). NaN, where nothing was tested, stays NaN and does not count.
    """
    tested = [index for index, value in enumerate(p) if not math.isnan(value)]
    adjusted = [math.nan] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(tested, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(tested) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted
