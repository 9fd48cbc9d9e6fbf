"""Statistics of tables: means over seeds with their uncertainty, and tests that two rows are equal."""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MIN_FOR_INTERVAL = 3
LEVEL = 0.05  # of the verdicts, over all columns of a table
DRAWS = 5000  # of the bootstrap

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


def student(means: Sequence[float]) -> float:
    """Two-sided p of Student's paired t test over repetitions. The test points are held fixed.

    NaN for a single repetition.
    """
    from scipy.stats import ttest_1samp  # slow to import

    if len(means) < 2:
        return math.nan
    if len(set(means)) == 1:  # no spread: NaN for zeros otherwise
        return 1.0 if means[0] == 0 else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where the spread is rounding alone
        return float(ttest_1samp(means, 0.0).pvalue)


def mcnemar(a: "np.ndarray", b: "np.ndarray") -> float:
    """Two-sided p of McNemar's exact test that two shares of the same points are equal.

    Of the m points on which a and b disagree, k hold for a alone; if both shares are equal, k is binomial with
    probability 1/2. McNemar, Psychometrika 12, 1947; the exact form is the sign test.

    Args:
        a, b: [N] bool, the same points in the same order.
    """
    from scipy.stats import binomtest  # slow to import

    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def bootstrap(differences: "np.ndarray", draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """95 % interval of the mean difference, and two-sided p, from resampled repetitions and points.

    Every draw takes n repetitions and N points with replacement. The points are the same images in all repetitions,
    so that one draw of points serves all of them ("pigeonhole bootstrap": Owen, Annals of Applied Statistics 1, 2007).
    The interval is that of the percentiles; p = min(1, 2 (1 + min(#{mean <= 0}, #{mean >= 0})) / (draws + 1)).

    With few repetitions it understates their spread, by a factor of up to sqrt((n - 1) / n); with one it only speaks
    about these networks.

    Args:
        differences: [n, N] float, repetitions by points.
    """
    import numpy as np

    n, points = differences.shape
    stream = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, 2**21 // differences.size)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        chosen = stream.integers(points, size=(count, points))
        repetitions = stream.integers(n, size=(count, n))
        of_each = differences[:, chosen].mean(2).T  # [count, n]
        means[start : start + count] = np.take_along_axis(of_each, repetitions, 1).mean(1)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return float(low), float(high), min(1.0, 2 * (1 + smaller) / (draws + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: max over j <= i of min(1, (m - j + 1) p_(j)), with p_(1) <= ... <= p_(m).

    Rejecting those below 5 % keeps the chance of any false rejection at 5 %, however the tests depend on each other
    (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted
