"""One column of several suites: which rows are better across them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.blocks import Ranking, ranking
from marginbench.benchmarks.statistics.letters import letters
from marginbench.benchmarks.statistics.paired import LEVEL, mean_and_interval
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import measured_by
from marginbench.benchmarks.tables.leaderboard import suite_name
from marginbench.methods.errors import ParameterError, suggest


@dataclass(frozen=True)
class Across:
    """The rows that every suite has measured, in the order of their average ranks."""

    column: str
    suites: list[str]
    rows: list[str]
    left_out: list[str]  # rows that some suite lacks
    ranking: Ranking

    @property
    def average_ranks(self) -> dict[str, float]:
        return dict(zip(self.rows, self.ranking.average_ranks, strict=True))

    @property
    def letters(self) -> list[str]:
        """Of each row: rows that share one cannot be told apart."""
        return letters((self.ranking.p < LEVEL).tolist())

    @property
    def cliques(self) -> list[list[str]]:
        """The largest sets of rows that cannot be told apart."""
        return [[self.rows[row] for row in clique] for clique in self.ranking.cliques]


def across(records: Iterable[Record], name: str, suites: Sequence[str] | None = None) -> Across | None:
    """Rank rows by their means over seeds, suite by suite; None where fewer than two suites share two rows.

    Args:
        name: a measured column.
        suites: fingerprints. Default: all.

    Raises:
        ParameterError: no such column.
    """
    import numpy as np

    counted = [record for record in current(records) if record.status == "done"]
    known = {column.name: column for column in columns.measured(columns.of_probes(counted))}
    if name not in known:
        raise ParameterError("name", name, f"no such column: {suggest(name, known)}")
    metrics = measured_by(counted)
    values: dict[str, dict[str, list[float]]] = {}
    for record in counted:
        if suites is None or record.identity.suite in suites:
            own = values.setdefault(record.identity.suite, {})
            own.setdefault(record.method, []).append(metrics[record.id].get(name, math.nan))
    means = {suite: {row: mean_and_interval(found)[0] for row, found in own.items()} for suite, own in values.items()}
    every = sorted({row for own in means.values() for row in own})
    rows = [row for row in every if all(not math.isnan(own.get(row, math.nan)) for own in means.values())]
    if len(means) < 2 or len(rows) < 2:
        return None
    sign = -1 if known[name].ascending else 1
    better = np.array([[sign * own[row] for row in rows] for own in means.values()])
    place = ranking(better).average_ranks
    order = sorted(range(len(rows)), key=lambda row: (place[row], rows[row]))
    return Across(
        column=name,
        suites=[suite_name(suite, counted) for suite in means],
        rows=[rows[row] for row in order],
        left_out=[row for row in every if row not in rows],
        ranking=ranking(better[:, order]),
    )
