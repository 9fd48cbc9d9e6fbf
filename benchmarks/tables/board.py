"""The boards of some records: of each suite the rows that were chosen, in their order, with where each stands."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.choice import Choice, check_columns, check_order, wanted_rows
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import (
    DEFAULT_SORT,
    WITHOUT_RADII,
    Row,
    has,
    rank,
    suite_name,
    usual_order,
)
from marginbench.benchmarks.tables.standing import Standing, Standings, standings


@dataclass(frozen=True)
class Board:
    """The rows of one suite that were chosen."""

    title: str
    choice: Choice
    rows: list[Row]  # best group first, by name inside a group; below them those without a group, then those marked
    records: list[Record]  # that the rows are made of
    counted: list[Record]  # of these, those that count
    probes: tuple[Column, ...]
    standing: Mapping[str, Standing]  # by name of the row, in the column that orders; empty where nothing can be said
    standings: Mapping[str, Mapping[str, Standing]]  # by name of the row, then column, as far as was asked
    below: int  # rows that --top has left out
    whole: bool  # all rows of the suite are here

    def of(self, row: Row) -> Standing | None:
        """Where the row stands; None where that cannot be said, and for marked rows."""
        return None if row.mark else self.standing.get(str(row.facts["method"]))

    @property
    def by(self) -> str:
        """The name in csv of what orders the rows."""
        return self.choice.by or usual_order(self.records)

    @property
    def ordering(self) -> Column | None:
        """The column of numbers that orders the rows, if it is one."""
        name = columns.stem(self.by)
        return next((column for column in columns.numbers(self.probes) if column.name == name), None)


def boards(records: Sequence[Record], choice: Choice, standings: Standings) -> list[Board]:
    """A board for each suite, told apart by fingerprint, that has a row left.

    Args:
        records: all of them: which ones count does not depend on the choice.
        standings: in the column `choice.by` at least, see `where_rows_stand`.

    Raises:
        ParameterError: unknown column, family or row, or a column to order by that none of them has.
    """
    check_columns(choice, records)
    counted = {record.id for record in current(records)}
    wanted = wanted_rows(choice, records)
    suites: dict[str, list[Row]] = {}
    every: Counter[str] = Counter()
    ranked = rank(records, choice.by or DEFAULT_SORT, standings)
    check_order(choice, ranked, records)
    for row in ranked:
        fingerprint = str(row.facts["suite_fingerprint"])
        every[fingerprint] += 1
        if _key(row) in wanted:
            suites.setdefault(fingerprint, []).append(row)
    made = []
    for fingerprint, found in suites.items():
        of_suite = {method: of for (suite, method), of in standings.items() if suite == fingerprint}
        own = [record for record in records if record.identity.suite == fingerprint]
        by = choice.by if choice.by and any(has(row, choice.by) for row in found) else usual_order(own)
        ordered = by == (choice.by or DEFAULT_SORT)
        best_first = found if ordered else [row for row in rank(own, by, standings) if _key(row) in wanted]
        standing = {method: of[by] for method, of in of_suite.items() if by in of}
        rows = _top(best_first, choice.top)
        names = {row.facts["method"] for row in rows}
        shown = [record for record in own if record.method in names]
        made.append(
            Board(
                title=f"{suite_name(fingerprint, records)}: {own[0].suite.title}",
                choice=replace(choice, by=by),
                rows=_grouped(rows, standing),
                records=shown,
                counted=[record for record in shown if record.id in counted],
                probes=columns.of_probes(own),
                standing=standing,
                standings=of_suite,
                below=len(best_first) - len(rows),
                whole=len(rows) == every[fingerprint],
            )
        )
    return made


def where_rows_stand(reading: Reading, names: Iterable[str] | None = None) -> Standings:
    """Groups and ranks of all rows in the columns of these names that have some. Default: in all columns."""
    if names is None:
        return standings(reading)
    known = {column.name for column in columns.numbers(columns.of_probes(reading.records.values()))}
    asked = list(names)
    if not all(record.epsilon for record in reading.records.values()):
        asked.append(WITHOUT_RADII)
    compared = [name for name in dict.fromkeys(asked) if name in known]
    return standings(reading, compared) if compared else {}


def is_baseline(row: Row) -> bool:
    return row.facts["method"] == BASELINE


def _key(row: Row) -> tuple[str, str]:
    return str(row.facts["suite_fingerprint"]), str(row.facts["method"])


def _top(best_first: Sequence[Row], top: int | None) -> list[Row]:
    """The first rows, and the baseline."""
    return [row for place, row in enumerate(best_first) if top is None or place < top or is_baseline(row)]


def _grouped(best_first: Sequence[Row], standing: Mapping[str, Standing]) -> list[Row]:
    """By group and then by name: means do not order what cannot be told apart."""

    def place(row: Row) -> tuple[bool, float, str]:
        of = standing.get(str(row.facts["method"]))
        known = of is not None and not row.mark and of.group
        return bool(row.mark), known or math.inf, str(row.facts["method"]) if known else ""

    return sorted(best_first, key=place)
