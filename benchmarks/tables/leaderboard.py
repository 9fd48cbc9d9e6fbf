"""The leaderboard: a pure function of the records.

`rank` makes its rows, the best first; `boards` groups them, and `render`, `terminal` and `frame` show them.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import Version, current, distinct, marks, version
from marginbench.benchmarks.records.reader import RESULTS, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.paired import mean_and_interval
from marginbench.benchmarks.tables import columns
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SORT = "robust_accuracy_l2"
BASELINE = "ce"  # training times are reported relative to its times

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
        return {**out, **self.texts}

    def mean(self, name: str) -> Mean:
        return self.means.get(name, (math.nan, None))


def load(*folders: str | Path, strict: bool = False) -> "pd.DataFrame":
    """Read all records below the folders (default: results/local): one row per run, with metrics, cost and doubts.

    The column `mark` is empty for the runs that count, see `records.current`. The column `path` leads to the record;
    `read_arrays(path)` gives its per-point arrays.

    Args:
        strict: raise where a record cannot be read, instead of a warning, and check the files of all arrays.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that cannot be read.
    """
    import pandas as pd

    reading = read_folders(folders or [RESULTS], strict=strict)
    reading.warn()
    why = marks(reading.records.values())
    rows = [
        {
            "suite": record.suite.name,
            "method": record.method,
            "repetition": record.repetition,
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


def rank(records: Iterable[Record], by: str = DEFAULT_SORT) -> list[Row]:
    """The rows of the leaderboard, suite by suite, the best of a column first, and below them those that do not count.

    Raises:
        ParameterError: `by` is not a column.
    """
    records = distinct(records)
    probes = columns.of_probes(records)
    if by not in (known := columns.names(probes)):
        raise ParameterError("by", by, f"no such column: {suggest(by, columns.stems(known))}")
    groups: dict[Version, list[Record]] = defaultdict(list)
    for record in records:
        groups[version(record)].append(record)
    why = marks(records)
    baseline = _baseline(current(records))
    names = [column.name for column in columns.measured(probes)]
    rows = [_row(group, baseline, why[group[0].id], names) for group in groups.values()]
    down = {column.name for column in columns.all_columns(probes) if not column.ascending}
    ascending = by not in down  # of intervals, the narrowest first
    return sorted(
        rows, key=lambda row: (*_suite(row), bool(row.mark), *_place(row, by, ascending), row.facts["method"])
    )


def suite_name(fingerprint: str, records: Iterable[Record]) -> str:
    """The name of a suite, with the start of its fingerprint where the records know several suites of this name."""
    names = {record.identity.suite: record.suite.name for record in records}
    name = names[fingerprint]
    return name if list(names.values()).count(name) == 1 else f"{name} ({fingerprint[:8]})"


def _suite(row: Row) -> tuple[str | int, ...]:
    return row.facts["suite"], row.facts["suite_fingerprint"]


def _place(row: Row, by: str, ascending: bool) -> tuple[bool, Any]:
    """What was not measured comes last."""
    name = by.removesuffix(columns.INTERVAL)
    value: Any = {**row.facts, **row.texts}.get(name)
    if value is None:
        value = row.mean(name)[by != name]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True, 0
    return False, value if ascending else -value


def _machine(record: Record) -> tuple[str | int, ...]:
    """Where and on what a run was timed: only runs of one place are compared."""
    where, of = record.trained or record.environment, record.identity
    return of.suite, of.data, where.host, where.device, where.threads


def _baseline(records: Iterable[Record]) -> dict[tuple[str | int, ...], float]:
    """Median training time of the baseline at each place: its runs are short, so that a single one is noisy."""
    times: dict[tuple[str | int, ...], list[float]] = defaultdict(list)
    for record in records:
        if record.method == BASELINE and record.status == "done":
            times[_machine(record)].append(record.cost.get("seconds") or math.nan)
    return {place: statistics.median(seconds) for place, seconds in times.items()}


def _row(group: Sequence[Record], baseline: Mapping[Any, float], mark: str, names: Sequence[str]) -> Row:
    done = [record for record in group if record.status == "done"]
    failed = [record for record in group if record.status == "failed"]
    first = group[0]
    seen = Counter(doubt for record in done for doubt in record.doubts)
    doubts = [f"{name} {count}/{len(done)}" for name, count in sorted(seen.items())]
    values = [dict(record.metrics) for record in done]
    for record, metrics in zip(done, values, strict=True):
        seconds = record.cost.get("seconds") or math.nan
        metrics[columns.COST.name] = seconds / baseline.get(_machine(record), math.nan)
    facts: dict[str, str | int] = {
        "suite": first.suite.name,
        "suite_fingerprint": first.identity.suite,
        "method": first.method,
        "key": first.identity.method,
        "n": len(done),
        "failed": len(failed),
        "points": max((int(metrics.get("points", 0)) for metrics in values), default=0),
    }
    return Row(
        facts={column.name: facts[column.name] for column in columns.FACTS},
        # a mean over missing cells is no mean
        means={name: mean_and_interval([metrics.get(name, math.nan) for metrics in values]) for name in names},
        texts={
            "doubts": ", ".join([*doubts, *filter(None, [mark])]),
            "error": "; ".join(sorted({record.error or "" for record in failed})),
        },
        mark=mark,
    )
