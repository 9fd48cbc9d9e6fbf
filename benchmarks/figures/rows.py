"""What figures are drawn of: the records of one suite that count, row by row, with their per-point arrays."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import Reading, arrays_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.source import reading_of
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import Row, rank, suite_name, usual_order
from marginbench.benchmarks.tables.standing import Standing, Standings, standings
from marginbench.methods import MarginbenchError, Norm
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import numpy as np

Interval = tuple[float, float, float]  # mean, lower and upper end; NaN where there is no interval


@dataclass(frozen=True)
class Rows:
    """The rows of one suite. Arrays are read when they are asked for, once."""

    suite: str  # its name, as tables show it
    fingerprint: str
    runs: Mapping[str, Sequence[Record]]  # of each row those that ended well, by repetition
    paths: Mapping[str, Path]  # of records, by id
    _arrays: dict[str, "dict[str, np.ndarray]"] = field(default_factory=dict, repr=False)
    _standing: dict[str, Mapping[str, Standing]] = field(default_factory=dict, repr=False)

    @property
    def epsilon(self) -> dict[Norm, float]:
        """The suite's radii, pixels of [0, 1]."""
        return next(iter(self.runs.values()))[0].epsilon

    def arrays(self, record: Record) -> "Mapping[str, np.ndarray]":
        """The per-point arrays of a record.

        Raises:
            MarginbenchError: see `arrays_of`.
        """
        if record.id not in self._arrays:
            self._arrays[record.id] = dict(arrays_of(self.paths[record.id], record))
        return self._arrays[record.id]

    @cached_property
    def table(self) -> dict[str, Row]:
        """The rows of the leaderboard, by name."""
        return {str(row.facts["method"]): row for row in rank(self.records)}

    def standing(self, column: str) -> Mapping[str, Standing]:
        """Where rows stand in a column, those of which that can be said."""
        if column not in self._standing:
            found = standings(Reading({self.paths[record.id]: record for record in self.records}, {}), [column])
            self._standing[column] = {row: of[column] for (_, row), of in found.items() if column in of}
        return self._standing[column]

    def interval(self, row: str, column: str) -> Interval:
        """The mean of a column with its 95 % interval, NaN where there is none."""
        own = self.standing(column).get(row)
        if own is not None:
            return own.mean, own.low, own.high
        mean, half = self.table[row].mean(column)
        return (mean, math.nan, math.nan) if half is None else (mean, mean - half, mean + half)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """All columns that hold numbers, by name."""
        return {column.name: column for column in columns.measured(columns.of_probes(self.records))}

    def column(self, name: str) -> Column:
        """A column of numbers.

        Raises:
            ParameterError: there is none of that name.
        """
        if name not in self.columns:
            raise ParameterError("column", name, f"no such column: {suggest(name, self.columns)}")
        return self.columns[name]

    def measured(self, name: str) -> Column:
        """A column that some row has.

        Raises:
            ParameterError: there is none of that name, or no row has it.
        """
        column = self.column(name)
        if name not in self.known:
            raise ParameterError(
                "column", name, f"no row of suite {self.suite} has it; they have {', '.join(self.known)}"
            )
        return column

    @cached_property
    def known(self) -> list[str]:
        """The columns of which some row has a finite mean."""
        rows = self.table.values()
        return [name for name in self.columns if any(math.isfinite(row.mean(name)[0]) for row in rows)]

    @property
    def usual(self) -> str:
        """The column that orders the rows in tables."""
        return usual_order(self.records)

    def heading(self, name: str) -> str:
        """The header of a column, with the suite's radii."""
        return self.column(name).heading(self.epsilon)

    def picked(self, names: Sequence[str] | None, column: str | None = None) -> list[str]:
        """The rows to highlight. Default: the baseline, and the best of a column, or of the usual one.

        Raises:
            ParameterError: there is no such row.
        """
        if names is not None:
            for name in names:
                if name not in self.runs:
                    raise ParameterError("picked", name, f"no such row: {suggest(name, self.runs)}")
            return list(names)
        column = column or self.usual
        sign = 1 if self.column(column).ascending else -1
        others = [name for name in self.table if name != BASELINE]
        means = zip(others, levels(sign * self.table[name].mean(column)[0] for name in others), strict=True)
        known = {name: mean for name, mean in means if not math.isnan(mean)}
        best = [min(known, key=known.__getitem__)] if known else []
        return [*([BASELINE] if BASELINE in self.runs else []), *best]

    @property
    def records(self) -> list[Record]:
        """All runs."""
        return [record for runs in self.runs.values() for record in runs]


def rows_of(source: Any, suite: str | None = None, known: Standings | None = None) -> Rows:
    """The rows of one suite.

    Args:
        source: see `records.source.reading_of`, or rows, which are returned.
        suite: name, or the beginning of the fingerprint. Default: the only one.
        known: where rows stand, of whoever knows already.

    Raises:
        MarginbenchError: no such folder, or no run in it that ended well.
        ParameterError: there are several suites, or none of that name.
    """
    if isinstance(source, Rows):
        return source
    every = suites_of(source, known)
    found = [rows for rows in every if suite is None or rows.suite == suite or rows.fingerprint.startswith(suite)]
    if len(found) == 1:
        return found[0]
    names = [rows.suite for rows in every]
    if suite is not None and not found:
        raise ParameterError("suite", suite, f"no such suite in these folders: {suggest(suite, names)}")
    raise ParameterError("suite", suite, f"there are several: name one of {', '.join(names)}")


def suites_of(source: Any, known: Standings | None = None) -> list[Rows]:
    """The rows of every suite, by name; see `rows_of`. Those of several suites are returned, too.

    Raises:
        MarginbenchError: no such folder, or no run in it that ended well.
    """
    if isinstance(source, Rows):
        return [source]
    if _are_rows(source):
        return list(source)
    reading = records_of(source)
    paths = {record.id: path for path, record in reading.records.items()}
    records = [record for record in current(reading.records.values()) if record.status == "done"]
    if not records:
        where = str(source) if isinstance(source, str | Path) else "these records"
        raise MarginbenchError(f"{where}: no run that ended well; make some with `marginbench run-all`")
    names = {fingerprint: suite_name(fingerprint, records) for fingerprint in {r.identity.suite for r in records}}
    standing: dict[str, dict[str, dict[str, Standing]]] = defaultdict(lambda: defaultdict(dict))
    for (fingerprint, row), of in (known or {}).items():
        for column, own in of.items():
            standing[fingerprint][column][row] = own
    return [
        Rows(
            suite=names[fingerprint],
            fingerprint=fingerprint,
            runs=_by_row(record for record in records if record.identity.suite == fingerprint),
            paths=paths,
            _standing=dict(standing[fingerprint]),
        )
        for fingerprint in sorted(names, key=lambda one: (names[one], one))
    ]


def records_of(source: Any) -> Reading:
    """As `records.source.reading_of`; of rows, those records that count and ended well."""
    if _are_rows(source):
        return Reading({rows.paths[record.id]: record for rows in source for record in rows.records}, {})
    return reading_of(source, arrays=True)


def _are_rows(source: Any) -> bool:
    return isinstance(source, list) and bool(source) and all(isinstance(one, Rows) for one in source)


def _by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Sorted by name, the baseline first."""
    out: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.method != BASELINE, r.method, r.repetition)):
        out.setdefault(record.method, []).append(record)
    return out
