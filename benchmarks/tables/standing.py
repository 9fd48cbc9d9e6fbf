"""Where a row stands in a column of its suite: its interval, its difference to the baseline, its rank, its group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.reader import Reading


@dataclass(frozen=True)
class Standing:
    """Of one row in one column; NaN, 0 or nothing where it cannot be said."""

    mean: float
    low: float  # 95 % interval of the mean
    high: float
    n: int  # networks
    difference: float  # to the baseline, paired
    difference_low: float
    difference_high: float
    p: float  # after Holm's correction over the rows of the table
    best_rank: int  # 95 % interval of the rank; 1 is the best
    worst_rank: int
    letters: str  # rows that share one cannot be told apart
    group: int  # 1 is the best


Standings = Mapping[tuple[str, str], Mapping[str, Standing]]  # by suite's fingerprint and row, by column


def standings(reading: Reading, names: Sequence[str] | None = None) -> Standings:
    """Nothing is known of any row yet."""
    return {}
