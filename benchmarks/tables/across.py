"""One column of several suites: which rows are better across them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.blocks import Ranking, ranking
from marginbench.benchmarks.statistics.letters import letters
from marginbench.benchmarks.statistics.paired import LEVEL, mean_and_interval
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import measured_by
from marginbench.benchmarks.tables.leaderboard import suite_name
from marginbench.benchmarks.tables.own_networks import data_of, with_own_networks
from marginbench.methods.errors import ParameterError, suggest
from marginbench.methods.words import few

NAMES = 12  # of suites or rows in a sentence


@dataclass(frozen=True)
class Across:
    """The rows that every suite has measured, in the order of their average ranks."""

    column: str
    suites: list[str]  # no two of which share a network
    rows: list[str]
    left_out: list[str]  # rows that some suite lacks
    ranking: Ranking
    same_networks: Mapping[str, Sequence[str]]  # of the suites above, the further evaluations of their networks
    same_data: Mapping[str, Sequence[str]]  # by name of the data, the suites above

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

    @property
    def cautions(self) -> list[str]:
        """Sentences on suites that tell less than their number."""
        networks = [
            f"{few([suite, *others], NAMES)} share networks: they count as one suite, of which {suite} is ranked."
            for suite, others in self.same_networks.items()
            if others
        ]
        data = [
            f"{few(suites, NAMES)} share the data {name}: they tell less than {len(suites)} suites of other data."
            for name, suites in self.same_data.items()
            if len(suites) > 1
        ]
        return [*networks, *data]


def across(records: Iterable[Record], name: str, suites: Sequence[str] | None = None) -> Across | None:
    """Rank rows by their means over seeds, suite by suite; None where fewer than two suites share two rows.

    Suites that evaluate the same networks are one suite, see `own_networks`.

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
    chosen: dict[str, list[Record]] = {}
    for record in counted:
        if suites is None or record.identity.suite in suites:
            chosen.setdefault(record.identity.suite, []).append(record)
    means = {
        suite: _means([(record.method, metrics[record.id].get(name, math.nan)) for record in own])
        for suite, own in chosen.items()
    }
    kept = with_own_networks(chosen, {suite: len(own) for suite, own in means.items()})
    every = sorted({record.method for own in chosen.values() for record in own})
    rows = [row for row in every if all(row in means[suite] for suite in kept)]
    if len(kept) < 2 or len(rows) < 2:
        return None
    sign = -1 if known[name].ascending else 1
    better = np.array([[sign * means[suite][row] for row in rows] for suite in kept])
    place = ranking(better).average_ranks
    order = sorted(range(len(rows)), key=lambda row: (place[row], rows[row]))
    names = {suite: suite_name(suite, counted) for suite in chosen}
    data: dict[str, list[str]] = {}
    for suite in kept:
        data.setdefault(data_of(chosen[suite][0]), []).append(names[suite])
    return Across(
        column=name,
        suites=[names[suite] for suite in kept],
        rows=[rows[row] for row in order],
        left_out=[row for row in every if row not in rows],
        ranking=ranking(better[:, order]),
        same_networks={names[suite]: [names[other] for other in others] for suite, others in kept.items()},
        same_data=data,
    )


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean over seeds of each row that has one: a mean over missing cells is none."""
    found: dict[str, list[float]] = {}
    for row, value in values:
        found.setdefault(row, []).append(value)
    means = {row: mean_and_interval(own)[0] for row, own in found.items()}
    return {row: mean for row, mean in means.items() if not math.isnan(mean)}
