"""Where each row of a table stands in each column: its interval, its difference to the baseline, its ranks, its group.

Rows are compared within one suite, by the records that count, from three seeds on; see `pairs`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.intervals import interval
from marginbench.benchmarks.statistics.letters import groups, letters
from marginbench.benchmarks.statistics.paired import LEVEL, holm
from marginbench.benchmarks.statistics.ranks import rank_intervals
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.counts import OF_VALIDATION, validation_images
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.pairs import (
    ColumnPairs,
    SuiteRuns,
    Suites,
    column_pairs,
    compared,
    suite_runs,
)
from marginbench.methods.errors import ParameterError, suggest


@dataclass(frozen=True)
class Standing:
    """Of one row in one column of its suite. NaN or None where it cannot be said, such as below three seeds.

    Differences, ranks and letters are those of `statistics.pairwise`, whose docstring gives their error rates.
    """

    mean: float
    low: float = math.nan  # of the mean's 95 % interval, see `statistics.intervals`
    high: float = math.nan
    n: int = 0  # networks
    difference: float = math.nan  # to the baseline, over seeds and test points
    difference_low: float = math.nan  # of its 95 % interval, uncorrected
    difference_high: float = math.nan
    p: float = math.nan  # that there is none; after Holm's correction over the rows of the table
    best_rank: int | None = None  # 95 % interval of the rank among all rows that have a mean, 1 is the best
    worst_rank: int | None = None  # rows that cannot be compared may all be better
    letters: str = ""  # rows that share one cannot be told apart; Holm's correction over all pairs
    group: int | None = None  # no two rows of a group can be told apart, 1 is the best

    @property
    def symmetric(self) -> bool:
        """Whether the mean is in the middle of its interval."""
        return math.isclose(self.high - self.mean, self.mean - self.low, rel_tol=1e-6, abs_tol=1e-12)

    @property
    def ranks(self) -> str:
        """`2–14`, or one number where there is no other; nothing where ranks are not known."""
        if not self.best_rank:
            return ""
        return f"{self.best_rank}" if self.best_rank == self.worst_rank else f"{self.best_rank}–{self.worst_rank}"


Standings = dict[tuple[str, str], dict[str, Standing]]  # by fingerprint of the suite and row, then by column


def standings(source: Reading | Suites, names: Sequence[str] | None = None) -> Standings:
    """Where all rows that count stand.

    Beside the measured columns there are `surely_better_NORM`, whose mean is a number of rows: those whose robust
    accuracy, that no attack has been able to lower further, is below the certified accuracy of this row. Robustness of
    either lies between the two, so that this one is better whatever the truth. The difference must be above 0 over
    seeds and test points, one-sided, after Holm's correction over all ordered pairs.

    Args:
        source: see `pairs.suite_runs`.
        names: columns, those that are measured and `surely_better_NORM`. Default: all.

    Raises:
        ParameterError: no such column.
    """
    suites = suite_runs(source)
    counted = [record for suite in suites.values() for record in suite.records]
    known = {column.name: column for column in columns.measured(columns.of_probes(counted))}
    every = [*known, *columns.SURELY_BETTER]
    wanted = every if names is None else list(names)
    for name in wanted:
        if name not in every:
            raise ParameterError("names", name, f"no such column: {suggest(name, every)}")
    out: Standings = {}
    for fingerprint, suite in suites.items():
        for row in suite.runs:
            out[fingerprint, row] = {}
        for name in wanted:
            found = _surely_better(suite, name) if name in columns.SURELY_BETTER else _column(suite, known[name])
            for row, standing in found.items():
                out[fingerprint, row][name] = standing
    return out


def _column(suite: SuiteRuns, column: Column) -> dict[str, Standing]:
    between = column_pairs(suite, column)
    out = {row: _alone(between, row) for row in suite.runs}
    return {**out, **_among(between, out)}


def _alone(between: ColumnPairs, row: str) -> Standing:
    """What can be said of a row whatever the others are, and its difference to the baseline."""
    suite, column = between.suite, between.column
    values = suite.values(row, column.name)
    low, high = interval(values, _images(suite.runs[row][0], column))
    mean = suite.mean(row, column.name)
    to_baseline = between.difference(row, suite.baseline_of(row))
    if row == BASELINE or not math.isfinite(to_baseline.value):
        return Standing(mean, low, high, len(values))
    return Standing(mean, low, high, len(values), to_baseline.value, to_baseline.low, to_baseline.high)


def _images(record: Record, column: Column) -> int | None:
    """Of how many images the column is a share; None where it is none, or that is not known."""
    if not columns.is_share(column):
        return None
    if column.name in OF_VALIDATION:
        return validation_images(record)
    return int(record.metrics.get("points", 0)) or None


def _among(between: ColumnPairs, alone: Mapping[str, Standing]) -> dict[str, Standing]:
    """With what can be said of the rows together, the best first."""
    import numpy as np

    order, pairs = between.rows, between.pairs
    if pairs is None:
        return {}
    i, j = np.triu_indices(len(order), 1)
    differ = np.zeros(pairs.p.shape, bool)
    differ[i, j] = differ[j, i] = np.array(holm(pairs.p[i, j].tolist())) < LEVEL
    shared, of_group = letters(differ.tolist()), groups(differ.tolist())
    better = -pairs.difference if between.column.ascending else pairs.difference
    ranks = rank_intervals(better, pairs.p, sum(not math.isnan(alone[row].mean) for row in alone if row not in order))
    out = {
        row: replace(alone[row], best_rank=ranks[k][0], worst_rank=ranks[k][1], letters=shared[k], group=of_group[k])
        for k, row in enumerate(order)
    }
    if BASELINE in order:
        others = [row for row in order if row != BASELINE]
        tests = [between.difference(row, between.suite.baseline_of(row)).p for row in others]
        for row, p in zip(others, holm(tests), strict=True):
            out[row] = replace(out[row], p=p)
    return out


def _surely_better(suite: SuiteRuns, name: str) -> dict[str, Standing]:
    norm = columns.norm_of(name)
    certified, robust = f"certified_accuracy_{norm}", f"robust_accuracy_{norm}"
    attacked = [row for row in suite.runs if suite.comparable(row, robust)]
    proven = [row for row in attacked if suite.comparable(row, certified)]
    counts = dict.fromkeys(attacked, 0)
    if proven:
        (column,) = (column for column in columns.ACCURACIES if column.name == robust)
        cells = [*((row, certified) for row in proven), *((row, robust) for row in attacked)]
        pairs = compared(suite, cells, column)
        ordered = [(a, b) for a in range(len(proven)) for b in range(len(attacked)) if proven[a] != attacked[b]]
        ahead = [pairs.difference[a, len(proven) + b] > 0 for a, b in ordered]
        halves = [float(pairs.p[a, len(proven) + b]) / 2 for a, b in ordered]
        adjusted = holm([p if up else 1 - p for p, up in zip(halves, ahead, strict=True)])
        for (a, _), p in zip(ordered, adjusted, strict=True):
            counts[proven[a]] += p < LEVEL
    return {row: Standing(float(counts.get(row, math.nan)), n=len(records)) for row, records in suite.runs.items()}
