"""Rows across suites: each suite is a block in which all rows are ranked (Demšar, JMLR 7, 2006, section 3.2).

Seeds are no blocks: those of one suite share its data, and know nothing of what other data would give.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marginbench.benchmarks.statistics.letters import cliques
from marginbench.benchmarks.statistics.level import level
from marginbench.benchmarks.statistics.paired import LEVEL, holm

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Ranking:
    """R rows in B blocks, in the order in which they were given."""

    blocks: int
    ranks: "np.ndarray"  # [B, R] float64, 1 for the best of a block; tied rows share the mean of their ranks
    average_ranks: list[float]  # over the blocks
    friedman_p: float  # that all rows are equal; NaN below three rows or two blocks
    p: "np.ndarray"  # [R, R] float64: Wilcoxon's signed-rank test of each pair, after Holm's correction over all
    cliques: list[list[int]]  # largest sets of rows no two of which differ, those of the best rows first
    critical_difference: float  # Nemenyi's: average ranks this far apart differ at 5 %; NaN below two rows

    @property
    def power(self) -> str:
        """What so many blocks could show at best."""
        rows = len(self.average_ranks)
        pairs, baseline = blocks_needed(rows * (rows - 1) // 2), blocks_needed(rows - 1)
        what = "no pair of rows can be told apart" if self.blocks < pairs else "pairs of rows can be told apart"
        return (
            f"With {self.blocks} suites {what}: all pairs of {rows} rows need {pairs} suites before Wilcoxon's test"
            f" with Holm's correction can reject anything, and comparisons with a baseline alone need {baseline}."
        )


def blocks_needed(comparisons: int) -> int:
    """The smallest number of blocks at which Wilcoxon's test with Holm's correction can reject anything.

    If one row is better in all B blocks, the exact p is 2 / 2^B, and Holm's first step asks for m 2^(1 - B) < 5 %: 15
    blocks for the m = 595 pairs of 35 rows, 11 for 34 comparisons with a baseline.
    """
    return 1 + math.floor(math.log2(comparisons / LEVEL)) + 1 if comparisons else 0


def ranking(better: "np.ndarray") -> Ranking:
    """Rank rows over blocks.

    Args:
        better: [B, R] float64 without NaN, large is good; what differs by rounding alone is tied.
    """
    import numpy as np
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    better = level(better)
    blocks, rows = better.shape
    ranks = rankdata(-better, axis=1)
    average = ranks.mean(0)
    p = np.ones((rows, rows))
    i, j = np.triu_indices(rows, 1)
    p[i, j] = p[j, i] = holm([signed_rank(better[:, a] - better[:, b]) for a, b in zip(i, j, strict=True)])
    order = sorted(range(rows), key=average.__getitem__)
    differ = (p < LEVEL)[np.ix_(order, order)].tolist()
    found = [[order[place] for place in range(rows) if held >> place & 1] for held in cliques(differ)]
    friedman, critical = math.nan, math.nan
    if rows > 2 and blocks > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            friedman = float(friedmanchisquare(*better.T).pvalue)
    if rows > 1:
        spread = math.sqrt(rows * (rows + 1) / (6 * blocks))
        critical = float(studentized_range.ppf(1 - LEVEL, rows, math.inf)) / math.sqrt(2) * spread
    return Ranking(blocks, ranks, average.tolist(), friedman, p, found, critical)


def signed_rank(differences: "np.ndarray") -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact, also with ties; zeros are left out.

    The sum of the ranks of the positive differences, had each sign been drawn by a coin.

    Args:
        differences: [B] float64.
    """
    import numpy as np
    from scipy.stats import rankdata

    kept = differences[differences != 0]
    doubled = np.rint(2 * rankdata(np.abs(kept))).astype(int)  # ranks of ties are whole or half
    chances = np.zeros(doubled.sum() + 1)
    chances[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(chances)
        moved[rank:] = chances[: len(chances) - rank]
        chances = (chances + moved) / 2
    seen = doubled[kept > 0].sum()
    return float(min(1.0, 2 * min(chances[: seen + 1].sum(), chances[seen:].sum())))
