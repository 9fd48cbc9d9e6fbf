"""Which rows of a table differ: all pairs at once, over seeds and test points, with as few as three seeds.

Student's paired t test of three seeds has two degrees of freedom: after Holm's correction over the pairs of 56 rows it
rejects only beyond t = 175, and the bootstrap of three seeds is too narrow by a factor of sqrt(2/3) as it is. But the
rows of a table know together what none of them knows alone: how much luck seeds bring. So the variance of each
row is moderated by that of all (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004, sections 3
and 6.2), but never made smaller, and that of the test points is added in closed form.

Measured with `speed.false_alarms` on tables of equal rows, 3 seeds, 360 points; the standard deviations of the luck of
the seeds vary from row to row by factors of exp(h N(0, 1)). Tables with any false alarm after Holm's correction,
for shares / margins:

    56 rows, of 200 tables    h = 0: 0.0 % / 0.0 %    h = 0.5: 2.0 % / 1.5 %    h = 1: 1.0 % / 0.0 %
    5 rows, of 200 tables     h = 0: 0.5 % / 0.5 %    h = 0.5: 1.0 % / 4.5 %    h = 1: 4.5 % / 6.0 %

Degrees of freedom by Welch and Satterthwaite gave 8 to 41 % for 56 rows with h >= 0.5, by variant, since they trust a
small variance of three seeds where points dominate. In eight groups of seven rows, at shares from 23 to 77 % or margins
from 0.8 to 1.8, these pairs of different groups were told apart: h = 0: 60 % / 65 %, h = 0.5: 43 % / 38 %, h = 1:
15 % / 10 %.

Rows that are unlike the others: one with 20 times their variance, or one beside rows that share 90 % of their luck with
each other, as settings of one method may. 10 or 56 rows, 200 tables of each: false alarms in 0.0 to 3.0 % of tables,
and 91 to 97 % of the 95 % intervals of the difference to that row hold it. Where variances may be made smaller, as
Smyth has it, pairs of different groups are told apart more often (68 % / 72 %, 52 % / 47 %, 18 % / 11 %), but 56 rows
with such a one have false alarms in up to 14 % of tables, and 65 to 90 % of these intervals hold the difference.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marginbench.benchmarks.statistics.level import level

if TYPE_CHECKING:
    import numpy as np

MIN_SEEDS = 3  # of a row
UNLIKE = 0.05  # of rows whose spread says so by chance
LEVELS = 193  # of p at which critical values are computed, from 1 to LEAST; between them log p is interpolated
LEAST = 1e-12


@dataclass(frozen=True)
class Pairwise:
    """Row minus column, each [R, R] float64; NaN where a row lacks a number or has fewer than three seeds."""

    difference: "np.ndarray"  # of the means
    half: "np.ndarray"  # of the 95 % interval of the difference
    p: "np.ndarray"  # two-sided, uncorrected; 1 on the diagonal


@dataclass(frozen=True)
class Luck:
    """Of the seeds: squared standard error of the mean of each row, [R] float64, and its degrees of freedom."""

    variance: "np.ndarray"
    degrees: "np.ndarray"


def pairwise(
    seeds: "np.ndarray",
    points: "np.ndarray | None" = None,
    size: "np.ndarray | float" = 1.0,
    own: "np.ndarray | None" = None,
) -> Pairwise:
    """Compare all rows of a column.

    For rows a and b with squared standard errors V_a and V_b over seeds (see `luck`), and P over points of their paired
    difference, t = (mean of a - mean of b) / sqrt(V_a + V_b + P). Its critical value is that of Cochran and Cox
    (Experimental Designs, 1957): the mean of Student's quantiles for the degrees of freedom of the three parts,
    weighted by V_a, V_b and P. Luck of a seed on a single point enters both V and P: errors are on the safe side by
    that much.

    Args:
        seeds: [R, n] float64, the mean over points of each row and seed; NaN where there is no such run.
        points: [R, N] float64, the mean over seeds of each row and point, the same points in all rows. Without them the
            points are held fixed.
        size: [R] or one number above 0, what the variance over seeds of a row is roughly proportional to.
        own: [R] bool, the rows that share no network with another one of them. The rest says nothing about the luck of
            seeds that these do not say. Default: all.
    """
    import numpy as np

    rows = len(seeds)
    of = luck(seeds, size, own)
    means = _means(seeds)
    i, j = np.triu_indices(rows, 1)
    place = level(means)
    difference = np.where(place[:, None] == place, 0.0, means[:, None] - means)
    over_points = _over_points(points)[i, j] if points is not None else np.zeros(len(i))
    parts = np.stack([of.variance[i], of.variance[j], over_points])  # [3, pairs]
    many = points.shape[1] - 1 if points is not None else 1
    degrees = [of.degrees[i], of.degrees[j], np.full(len(i), float(many))]
    half, p = _cochran_cox(np.abs(difference[i, j]), parts, np.stack(degrees))
    return Pairwise(difference, _symmetric(half, rows, 0.0), _symmetric(p, rows, 1.0))


def luck(seeds: "np.ndarray", size: "np.ndarray | float" = 1.0, own: "np.ndarray | None" = None) -> Luck:
    """What the mean of each row owes to its seeds.

        V = max(s^2, (d0 s0^2 size + d s^2) / (d0 + d)) / n    with d0 + d degrees of freedom

    for a row of n seeds with sample variance s^2: its luck may be more than three seeds show, and never less. Where
    s^2 / size is among the largest UNLIKE that s0^2 F(d, d0) has, the row is none of those that the others know, and
    d0 is 0: one such row among many that are alike moves neither d0 nor s0, and its intervals would be those of the
    others. The rows of a table share initial weights and the order of the data
    seed by seed: where no run is missing, what a seed does to all rows, in units of sqrt(size), is taken out of s^2,
    which has d = (n - 1)(R - 1) / R degrees of freedom then and n - 1 otherwise. d0 and s0 are estimated from the
    spread of log(s^2 / size) over the rows; d0 + d is at most the sum of all d. Two rows are compared
    by Student's paired t test, therefore. NaN below three seeds.

    Args: as `pairwise`.
    """
    import numpy as np
    from scipy.special import fdtrc

    size = np.broadcast_to(np.asarray(size, float), (len(seeds),))
    own = np.ones(len(seeds), bool) if own is None else own
    rows = int(own.sum())
    n = np.isfinite(seeds).sum(1)
    centred = seeds - _means(seeds)[:, None]
    degrees = np.maximum(n - 1.0, 0.0)
    if rows > 1 and np.isfinite(seeds).all():
        unit = np.sqrt(size)[:, None]
        centred = centred - unit * (centred / unit)[own].mean(0)
        degrees = degrees * (rows - 1) / rows
    enough = n >= MIN_SEEDS
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.nansum(centred**2, 1) / degrees
        prior, level = _prior((spread / size)[enough & own], degrees[enough & own])
        d0 = np.minimum(prior, np.maximum(degrees[enough & own].sum() - degrees, 0.0))
        d0 = np.where(fdtrc(degrees, d0, spread / (level * size)) < UNLIKE, 0.0, d0)
        variance = np.maximum(spread, (d0 * level * size + degrees * spread) / (d0 + degrees)) / n
    return Luck(np.where(enough, variance, np.nan), np.where(enough, d0 + degrees, np.nan))


def _means(seeds: "np.ndarray") -> "np.ndarray":
    """[R]; NaN without a seed."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.nansum(seeds, 1) / np.isfinite(seeds).sum(1)
    return means


def _over_points(points: "np.ndarray") -> "np.ndarray":
    """[R, R]: squared standard error over points of the mean difference; NaN for rows with a value not finite."""
    import numpy as np

    count = points.shape[1]
    with np.errstate(invalid="ignore"):
        centred = points - points.mean(1, keepdims=True)
        covariance = centred @ centred.T / (count - 1)
        own = np.diag(covariance)
        variance: np.ndarray = np.maximum(own[:, None] + own - 2 * covariance, 0.0) / count
    return variance


def _prior(ratios: "np.ndarray", degrees: "np.ndarray") -> tuple[float, float]:
    """d0 and s0^2 such that ratios are s0^2 F(degrees, d0): moments of their logarithms (Smyth, section 6.2).

    Rows without spread say nothing of it and are left out, which makes s0^2 too large rather than too small. With
    nothing to learn from, d0 is 0.
    """
    import numpy as np
    from scipy.special import digamma, polygamma

    kept = np.isfinite(ratios) & (ratios > 0)
    if kept.sum() < 2:
        return 0.0, 0.0
    half = degrees[kept] / 2
    e = np.log(ratios[kept]) - digamma(half) + np.log(half)
    excess = e.var(ddof=1) - polygamma(1, half).mean()
    if np.ptp(e) < 1e-9:  # of two rows without their common luck, which have one spread
        return np.inf, float(ratios[kept].mean())
    if excess <= 0:
        return np.inf, float(np.exp(e.mean()))
    low, high = 1e-3, 1e6  # of d0 / 2: trigamma falls
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if polygamma(1, middle) > excess else (low, middle)
    return 2 * low, float(np.exp(e.mean() + digamma(low) - np.log(low)))


def _cochran_cox(
    distance: "np.ndarray", parts: "np.ndarray", degrees: "np.ndarray"
) -> tuple["np.ndarray", "np.ndarray"]:
    """Half of the 95 % intervals, and two-sided p, each [M].

    Args:
        distance: [M], the differences without their sign.
        parts: [3, M], what the squared standard errors are the sum of.
        degrees: [3, M], of freedom.
    """
    import numpy as np
    from scipy.special import stdtrit

    variance = parts.sum(0)
    error = np.sqrt(variance)
    levels = np.geomspace(1.0, LEAST, LEVELS)
    kinds, which = np.unique(degrees, return_inverse=True)
    which = which.reshape(degrees.shape)

    def critical(level: float) -> "np.ndarray":
        quantiles = -stdtrit(kinds, level / 2) if level < 1 else np.zeros(len(kinds))
        value: np.ndarray = (parts * quantiles[which]).sum(0) / error  # of the distance: sum V_k t_k / sqrt(V)
        return value

    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.full(len(distance), np.nan)
        below = np.zeros(len(distance))
        for before, level in itertools.pairwise(levels):
            above = critical(level)
            here = (below <= distance) & (distance < above)
            share = (distance - below) / (above - below)
            p[here] = (before * (level / before) ** share)[here]
            below = above
        p[distance >= below] = LEAST
        half = critical(0.05)
    still = variance == 0  # no spread at all
    p[still] = np.where(distance[still] == 0, 1.0, 0.0)
    half[still] = 0.0
    return half, p


def _symmetric(values: "np.ndarray", rows: int, diagonal: float) -> "np.ndarray":
    """[R, R] of the values above the diagonal."""
    import numpy as np

    out = np.full((rows, rows), diagonal)
    i, j = np.triu_indices(rows, 1)
    out[i, j] = out[j, i] = values
    return out
