"""The leaderboard: a pure function of the records."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from marginbench.benchmarks.records.record import Record, read_record, record_paths
from marginbench.benchmarks.tables.statistics import mean_and_interval
from marginbench.methods import NORMS, MarginbenchError
from marginbench.methods.errors import suggest

METRICS = (
    "clean_accuracy",
    *(f"robust_accuracy_{norm}" for norm in NORMS),
    *(f"certified_accuracy_{norm}" for norm in NORMS),
    *(f"margin_{end}_{norm}" for norm in NORMS for end in ("lower", "upper")),
    *(f"unattacked_{norm}" for norm in NORMS),
    "feature_margin",
    "output_margin",
    "rejection_rate",
    "rejection_accuracy",
    *(f"rejection_robust_accuracy_{norm}" for norm in NORMS),
    "smoothed_accuracy",
    "smoothed_certified_accuracy_l2",
    "smoothed_radius_l2",
    "smoothed_abstention",
    *(f"clever_{norm}" for norm in NORMS),
    "cost",
)
FACTS = ("suite", "suite_fingerprint", "method", "key", "n", "failed", "points")
COLUMNS = (*FACTS, *(name + end for name in METRICS for end in ("", "_ci95")), "doubts", "error")
DEFAULT_SORT = "robust_accuracy_l2"
_ASCENDING = (
    "cost",
    "unattacked",
    "rejection_rate",
    "smoothed_abstention",
    "method",
    "key",
    "suite",
    "failed",
    "doubts",
    "error",
)


def load(*folders: str | Path) -> pd.DataFrame:
    """Read all records below the folders: one row per run, with identity, metrics, cost and doubts.

    The column `path` leads to the record; `read_arrays(path)` gives its per-point arrays.
    """
    rows = []
    for path in record_paths(map(Path, folders)):
        record = read_record(path)
        rows.append(
            {
                "suite": record.suite["name"],
                "method": record.method,
                "repetition": record.repetition,
                "status": record.status,
                **numbers(record.metrics),
                **record.cost,
                "doubts": sorted(record.doubts),
                "error": record.error,
                "path": path,
            }
        )
    return pd.DataFrame(rows)


def read_records(folders: Iterable[Path]) -> list[Record]:
    """All records below the folders; a run that stands in two folders counts once."""
    records = {record.id: record for record in map(read_record, record_paths(folders))}
    return list(records.values())


def leaderboard(records: Iterable[Record], sort: str = DEFAULT_SORT) -> pd.DataFrame:
    """One row per suite and method, means over seeds with 95 % intervals (`*_ci95`, half widths) from n = 3 on.

    `cost` is the training time divided by the median of that of `ce` on the same machine.

    Raises:
        MarginbenchError: `sort` is not a column.
    """
    if sort not in COLUMNS:
        raise MarginbenchError(f"--sort {sort!r}: no such column: {suggest(sort, COLUMNS)}")
    records = list(records)
    groups = _groups(records)
    newest = _newest(groups)
    baseline = _baseline(records)
    rows = [_row(group, baseline, row in newest) for row, group in groups.items()]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    ascending = sort.removesuffix("_ci95").startswith(_ASCENDING)
    return frame.sort_values(
        ["suite", "suite_fingerprint", sort, "method"],
        ascending=[True, True, ascending, True],
        na_position="last",
        ignore_index=True,
    )


def newest_versions(records: Iterable[Record]) -> list[Record]:
    """The records of the rows that the leaderboard does not call stale."""
    groups = _groups(records)
    return [record for row in sorted(_newest(groups)) for record in groups[row]]


def _groups(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[_row_of(record)].append(record)
    return groups


def _row_of(record: Record) -> tuple[str, ...]:
    """Suite, method and version: records of one row differ in the repetition alone."""
    identity = record.identity
    version = (
        f"{identity['revision']:06d}",
        identity["source"] or "",
        identity.get("weights", ""),  # of a model that was not trained here
        identity.get("data", ""),
    )
    return record.suite["name"], identity["suite"], record.method, *version


def _newest(groups: dict[tuple[str, ...], list[Record]]) -> set[tuple[str, ...]]:
    latest: dict[tuple[str, ...], tuple[str, str, tuple[str, ...]]] = {}
    for row, group in groups.items():
        candidate = (row[3], max(record.finished for record in group), row)
        latest[row[:3]] = max(latest.get(row[:3], candidate), candidate)
    return {row for _, _, row in latest.values()}


def _place(record: Record) -> tuple[Any, ...]:
    """Where a run was timed: only runs of one place are compared."""
    where = record.environment
    return record.identity["suite"], where.get("host"), where.get("device"), where.get("threads")


def _baseline(records: list[Record]) -> dict[tuple[Any, ...], float]:
    """Median training time of `ce` at each place: its runs are short, so that a single one is noisy."""
    times: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for record in records:
        if record.method == "ce" and record.status == "done":
            times[_place(record)].append(record.cost["seconds"] or math.nan)
    return {place: statistics.median(seconds) for place, seconds in times.items()}


def _row(group: list[Record], baseline: dict[tuple[Any, ...], float], newest: bool) -> dict[str, Any]:
    done = [record for record in group if record.status == "done"]
    failed = [record for record in group if record.status == "failed"]
    first = group[0]
    row: dict[str, Any] = {
        "suite": first.suite["name"],
        "suite_fingerprint": first.identity["suite"],
        "method": first.method,
        "key": first.identity["method"],
        "n": len(done),
        "failed": len(failed),
        "points": max((int(r.metrics["points"] or 0) for r in done), default=0),
    }
    values = [
        {
            **numbers(record.metrics),
            "cost": (record.cost.get("seconds") or math.nan) / baseline.get(_place(record), math.nan),
        }
        for record in done
    ]
    for name in METRICS:
        # a mean over missing cells is no mean
        column = [value.get(name, math.nan) for value in values]
        row[name], row[f"{name}_ci95"] = mean_and_interval(column)
    seen = Counter(doubt for record in done for doubt in record.doubts)
    doubts = [f"{name} {count}/{len(done)}" for name, count in sorted(seen.items())]
    row["doubts"] = ", ".join(doubts if newest else [*doubts, "stale"])
    reasons = sorted({record.error or "" for record in failed})
    row["error"] = "; ".join(reasons)
    return row


def numbers(values: dict[str, float | None]) -> dict[str, float]:
    """The metrics of a record with the infinite ones, which JSON does not know, put back."""
    return {name: math.inf if value is None else value for name, value in values.items()}
