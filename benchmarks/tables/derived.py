"""Numbers of a run that follow from others: costs relative to the baseline, and what no estimator could decide."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.counts import exact, exact_metrics
from marginbench.methods import NORMS

BASELINE = "ce"  # costs are relative to its costs, differences are to it
OF_TUNED = "Tuned rows are compared with cross-entropy that was tuned like them, where that is there."

Place = tuple[str | int, ...]


def measured_by(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """The metrics of each record by its id, with those that tables derive; see `columns` for what they mean."""
    records = list(records)
    counted = [record for record in current(records) if record.method == BASELINE and record.status == "done"]
    seconds = _medians(counted, _machine, _seconds)
    passes = _medians(counted, _data, _passes)
    metrics = {record.id: exact_metrics(record) for record in records}
    return {
        record.id: {
            **metrics[record.id],
            **_unknown(metrics[record.id]),
            "cost": _seconds(record) / seconds.get(_machine(record), math.nan),
            "passes": _passes(record) / passes.get(_data(record), math.nan),
        }
        for record in records
    }


def _unknown(metrics: Mapping[str, float]) -> dict[str, float]:
    """Robust at epsilon as far as attacks know, and not certified there."""
    robust = {norm: metrics[f"robust_accuracy_{norm}"] for norm in NORMS if f"robust_accuracy_{norm}" in metrics}
    points = int(metrics.get("points", 0))
    return {
        f"unknown_{norm}": exact(share - metrics.get(f"certified_accuracy_{norm}", 0.0), points)
        for norm, share in robust.items()
    }


def _machine(record: Record) -> Place:
    """Where and on what a run was timed: only runs of one place are compared."""
    where, of = record.trained or record.environment, record.identity
    return of.suite, of.data, where.host, where.device, where.threads


def _data(record: Record) -> Place:
    return record.identity.suite, record.identity.data


def _seconds(record: Record) -> float:
    return record.cost.get("seconds") or math.nan


def _passes(record: Record) -> float:
    """Forward and backward passes of the training, each over a batch."""
    cost = record.cost
    each = (cost.get("forward") or math.nan) + (cost.get("backward") or math.nan)
    return each * (cost.get("steps") or math.nan)


def _medians(
    records: Iterable[Record], place: Callable[[Record], Place], cost: Callable[[Record], float]
) -> dict[Place, float]:
    """Median cost of the baseline at each place: its runs are short, so that a single one is noisy."""
    found: dict[Place, list[float]] = defaultdict(list)
    for record in records:
        found[place(record)].append(cost(record))
    return {where: statistics.median(costs) for where, costs in found.items()}
