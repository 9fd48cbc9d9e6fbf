"""The leaderboard: a pure function of the records.

`rank` makes its rows, the best first; `boards` groups them, and `render`, `terminal` and `frame` show them.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import Version, distinct, marks, version
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.source import Source, reading_of
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.statistics.paired import mean_and_interval
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import measured_by
from marginbench.benchmarks.tables.pareto import on_fronts
from marginbench.benchmarks.tables.standing import Standings
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SORT = "robust_accuracy_l2"
WITHOUT_RADII = "clean_accuracy"  # in its place, for sentences

Mean = tuple[float, float | None]  # over seeds, and half of Student's 95 % interval from three of them on


@dataclass(frozen=True)
class Row:
    """The runs of one method in one suite, in one version of both."""

    facts: Mapping[str, str | int]  # by name of the column, as the texts
    means: Mapping[str, Mean]  # by name of the metric
    texts: Mapping[str, str]
    mark: str = ""  # why it does not count, see `records.current`

    def values(self, probes: Iterable[Column]) -> dict[str, Any]:
        """By name of the column; NaN and None stand for what was not measured."""
        out: dict[str, Any] = dict(self.facts)
        for column in columns.measured(probes):
            out[column.name], out[column.name + columns.INTERVAL] = self.mean(column.name)
        return {**out, **{name: self.mean(name)[0] for name in columns.SURELY_BETTER}, **self.texts}

    def mean(self, name: str) -> Mean:
        return self.means.get(name, (math.nan, None))


def load(source: Source = RESULTS, *, strict: bool = False) -> "pd.DataFrame":
    """Read all records below some folders: one row per run, with metrics, cost and doubts.

    The column `mark` is empty for the runs that count, see `records.current`. The column `path` leads to the record;
    `read_arrays(path)` gives its per-point arrays.

    Args:
        source: see `reading_of`.
        strict: raise where a record cannot be read, instead of a warning, and check the files of all arrays.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that cannot be read.
    """
    import pandas as pd

    reading = reading_of(source, strict=strict)
    why = marks(reading.records.values())
    rows = [
        {
            "suite": record.suite.name,
            "method": record.method,
            "seed": record.repetition,
            "status": record.status,
            **record.metrics,
            **record.cost,
            "doubts": sorted(record.doubts),
            "error": record.error,
            "mark": why[record.id],
            "path": path,
        }
        for path, record in reading.records.items()
    ]
    return pd.DataFrame(rows)


def rank(records: Iterable[Record], by: str = DEFAULT_SORT, known: Standings | None = None) -> list[Row]:
    """The rows of the leaderboard, suite by suite, the best of a column first, and below them those that do not count.

    Args:
        known: where the rows stand: it counts the rows that they are surely better than.

    Raises:
        ParameterError: `by` is no column, or one that orders nothing, such as a text.
    """
    records = distinct(records)
    probes = columns.of_probes(records)
    if by not in (possible := columns.ordering(probes)):
        stems = columns.stems(possible)
        none = f"orders no rows; what does: {', '.join(stems)}"
        problem = none if by in columns.names(probes) else f"no such column: {suggest(by, stems)}"
        raise ParameterError("by", by, problem)
    groups: dict[Version, list[Record]] = defaultdict(list)
    for record in records:
        groups[version(record)].append(record)
    why, metrics = marks(records), measured_by(records)
    names = [column.name for column in columns.measured(probes)]
    rows = [_row(group, metrics, why[group[0].id], names) for group in groups.values()]
    rows = _with_fronts([_with_counts(row, known or {}) for row in rows])
    down = {column.name for column in columns.all_columns(probes) if not column.ascending}
    ascending = by not in down  # of intervals, the narrowest first
    places = _places([_value(row, by) for row in rows], ascending)
    found = zip(places, rows, strict=True)
    ordered = sorted(found, key=lambda one: (*_suite(one[1]), bool(one[1].mark), *one[0], one[1].facts["method"]))
    return [row for _, row in ordered]


def usual_order(records: Sequence[Record]) -> str:
    """The column that orders the rows of a suite unless one is named."""
    return DEFAULT_SORT if records[0].epsilon else WITHOUT_RADII


def suite_name(fingerprint: str, records: Iterable[Record]) -> str:
    """The name of a suite, with the start of its fingerprint where the records know several suites of this name."""
    names = {record.identity.suite: record.suite.name for record in records}
    name = names[fingerprint]
    return name if list(names.values()).count(name) == 1 else f"{name} ({fingerprint[:8]})"


def _suite(row: Row) -> tuple[str | int, ...]:
    return row.facts["suite"], row.facts["suite_fingerprint"]


def has(row: Row, by: str) -> bool:
    """Whether the column, or its interval, was measured of the row."""
    value = _value(row, by)
    return isinstance(value, str) or not math.isnan(value)


def _value(row: Row, by: str) -> str | float:
    """What orders the row; NaN where it was not measured."""
    name = by.removesuffix(columns.INTERVAL)
    if name in row.facts:
        return row.facts[name]
    mean, half = row.mean(name)
    return mean if by == name else math.nan if half is None else half


def _places(values: Sequence[str | float], ascending: bool) -> list[tuple[bool, str | float]]:
    """What rows are sorted by: those that differ by rounding alone are level, what was not measured comes last."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return [(False, value) for value in values]
    signed = [number if ascending else -number for number in levels(numbers)]
    return [(math.isnan(number), 0 if math.isnan(number) else number) for number in signed]


def _with_counts(row: Row, known: Standings) -> Row:
    of = {} if row.mark else known.get((str(row.facts["suite_fingerprint"]), str(row.facts["method"])), {})
    counts: dict[str, Mean] = {name: (of[name].mean, None) for name in columns.SURELY_BETTER if name in of}
    return replace(row, means={**row.means, **counts})


def _with_fronts(rows: Sequence[Row]) -> list[Row]:
    """In every suite the rows that count are compared."""
    suites: dict[tuple[str | int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        suites[(*_suite(row), row.mark)].append(row)
    found = []
    for own in suites.values():
        means = [{} if row.mark else {name: mean for name, (mean, _) in row.means.items()} for row in own]
        found += [replace(row, texts={**row.texts, **on}) for row, on in zip(own, on_fronts(means), strict=True)]
    return found


def _row(group: Sequence[Record], metrics: Mapping[str, Mapping[str, float]], mark: str, names: Sequence[str]) -> Row:
    done = [record for record in group if record.status == "done"]
    ended = [record for record in group if record.status == "failed"]
    failed = [record for record in ended if not record.inapplicable]
    first = group[0]
    seen = Counter(doubt for record in done for doubt in record.doubts)
    doubts = [f"{name} {count}/{len(done)}" for name, count in sorted(seen.items())]
    values = [metrics[record.id] for record in done]
    facts: dict[str, str | int] = {
        "suite": first.suite.name,
        "suite_fingerprint": first.identity.suite,
        "method": first.method,
        "key": first.identity.method,
        "n": len(done),
        "failed": len(failed),
        "points": max((int(run.get("points", 0)) for run in values), default=0),
    }
    return Row(
        facts={column.name: facts[column.name] for column in columns.FACTS},
        # a mean over missing cells is no mean
        means={name: mean_and_interval([run.get(name, math.nan) for run in values]) for name in names},
        texts={
            "doubts": ", ".join([*doubts, *filter(None, [mark])]),
            "error": "; ".join(sorted({record.error or "" for record in ended})),
        },
        mark=mark,
    )
