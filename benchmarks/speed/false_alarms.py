"""How often tables of equal rows tell some apart, and what they find where there is something to find.

The numbers in the docstrings of `statistics.pairwise` and `statistics.ranks` are its output.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from marginbench.benchmarks.speed.turns import Option, parse
from marginbench.benchmarks.statistics.paired import LEVEL, holm
from marginbench.benchmarks.statistics.pairwise import Pairwise, pairwise
from marginbench.benchmarks.statistics.ranks import rank_intervals

GROUPS = np.repeat(np.linspace(-0.8, 0.8, 8), 7)  # where 56 rows are not equal


@dataclass(frozen=True)
class Setting:
    """A table to draw: points of different difficulty, for each row too, seeds of different luck, noise."""

    share: bool  # or positive margins
    spread: float  # of the logarithm of the rows' standard deviations over seeds
    shifts: np.ndarray  # [R], of the rows
    seeds: int = 3
    points: int = 360
    unstable: float = 1.0  # times the variance over seeds of the first row
    shared: float = 0.0  # share of that variance which all rows but the first have in common, as settings of one method


@dataclass(frozen=True)
class Outcome:
    """Shares, of tables or pairs; NaN where there are none."""

    alarms: float  # tables in which any two equal rows are told apart, after Holm's correction over all pairs
    uncorrected: float  # pairs of equal rows with p < 5 %
    found: float  # pairs of different rows that are told apart, after Holm's correction over all pairs
    intervals: float  # 95 % intervals of the difference of an equal row to the first one that hold 0
    covered: float  # rows whose interval of ranks holds all of their ranks, tied rows having several
    percentiles: float  # the same, of percentiles of ranks under the bootstrap over seeds and points


def table(stream: np.random.Generator, of: Setting) -> np.ndarray:
    """[R, n, N] float64: values of a column."""
    rows = len(of.shifts)
    luck = 0.08 * np.exp(of.spread * stream.normal(size=(rows, 1))) * stream.normal(size=(rows, of.seeds))
    luck[0] *= np.sqrt(of.unstable)
    if of.shared:
        common = 0.08 * np.sqrt(of.shared) * stream.normal(size=of.seeds)
        luck[1:] = np.sqrt(1 - of.shared) * luck[1:] + common
    luck += 0.05 * stream.normal(size=of.seeds)  # of initial weights and order of the data, which rows share
    points = stream.normal(size=of.points) + 0.35 * stream.normal(size=(rows, of.points))
    latent = (of.shifts[:, None] + luck)[:, :, None] + points[:, None]
    latent += 0.35 * stream.normal(size=latent.shape)
    return (latent > 0).astype(float) if of.share else np.exp(0.5 * latent)


def compared(values: np.ndarray, share: bool) -> Pairwise:
    """As tables compare their rows."""
    seeds, points = values.mean(2), values.mean(1)
    means = points.mean(1)
    shrunk = (means * points.shape[1] + 2) / (points.shape[1] + 4)
    return pairwise(seeds, points, shrunk * (1 - shrunk) if share else means**2)


def simulate(of: Setting, trials: int, seed: int = 1) -> Outcome:
    """Draw tables and compare their rows."""
    stream = np.random.default_rng(seed)
    i, j = np.triu_indices(len(of.shifts), 1)
    equal = of.shifts[i] == of.shifts[j]
    alarms, uncorrected, found, intervals, covered, percentiles = [], [], [], [], [], []
    for _ in range(trials):
        values = table(stream, of)
        pairs = compared(values, of.share)
        told = np.array(holm(pairs.p[i, j].tolist())) < LEVEL
        alarms.append(told[equal].any())
        uncorrected += (pairs.p[i, j][equal] < LEVEL).tolist()
        found += told[~equal].tolist()
        first = equal & (i == 0)
        intervals += (np.abs(pairs.difference[i, j]) <= pairs.half[i, j])[first].tolist()
        best, worst = 1 + (of.shifts[:, None] < of.shifts).sum(1), (of.shifts[:, None] <= of.shifts).sum(1)
        ranks = np.array(rank_intervals(pairs.difference, pairs.p))
        covered += ((ranks[:, 0] <= best) & (worst <= ranks[:, 1])).tolist()
        low, high = _percentiles(stream, values)
        percentiles += ((low <= best) & (worst <= high)).tolist()
    return Outcome(*map(_mean, (alarms, uncorrected, found, intervals, covered, percentiles)))


def _percentiles(stream: np.random.Generator, values: np.ndarray, draws: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """[R] each: percentiles of ranks where one draw of seeds and points serves all rows."""
    _, seeds, points = values.shape
    of_seeds = stream.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    of_points = stream.multinomial(points, np.full(points, 1 / points), size=draws) / points
    means = np.stack([(of_seeds @ row * of_points).sum(1) for row in values], 1)  # [draws, R]
    ranks = 1 + (means[:, :, None] < means[:, None, :]).sum(2)
    low, high = np.quantile(ranks, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return np.floor(low), np.ceil(high)


def _mean(values: list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


def settings() -> Iterator[tuple[str, Setting]]:
    for kind in ("shares", "margins"):
        for spread in (0.0, 0.5, 1.0):
            for rows in (5, 56):
                name = f"{rows} equal rows, {kind}, spread {spread}"
                yield name, Setting(kind == "shares", spread, np.zeros(rows))
            yield f"8 groups of 7 rows, {kind}, spread {spread}", Setting(kind == "shares", spread, GROUPS)
        for rows in (10, 56):
            name = f"{rows} equal rows, {kind}, the first of 20 times the variance"
            yield name, Setting(kind == "shares", 0.0, np.zeros(rows), unstable=20.0)
            name = f"{rows} equal rows, {kind}, all but the first share 90 % of their luck"
            yield name, Setting(kind == "shares", 0.0, np.zeros(rows), shared=0.9)
        yield f"5 rows, {kind}, 10 seeds", Setting(kind == "shares", 0.5, np.zeros(5), seeds=10)
        for reach in (0.1, 0.8):
            different = np.linspace(-reach, reach, 56)
            yield f"56 rows from -{reach} to {reach}, {kind}, spread 0.5", Setting(kind == "shares", 0.5, different)


def main() -> None:
    trials = parse(__doc__, trials=Option(200, "tables of each kind")).trials
    print("| tables | false alarms | p < 5 % | found | intervals to the first | ranks covered | by percentiles |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, of in settings():
        out = simulate(of, trials)
        print("|", name, *(f"| {100 * value:.1f} %" for value in vars(out).values()), "|", flush=True)


if __name__ == "__main__":
    main()
