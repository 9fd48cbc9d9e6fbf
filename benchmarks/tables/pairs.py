"""How two rows of a suite differ in a column: one estimate, one interval and one p, by which all tables go.

Leaderboard, comparison, claims and report differ only in what they correct for: all pairs of rows, the rows beside the
baseline, or the columns of one pair. From three seeds on `statistics.pairwise` compares all rows of the suite that were
read, since together they know how much luck seeds bring: fewer folders may give other intervals. What is known point by
point is compared over seeds and test points, and so are F1 and Matthews by what each point contributes to them, see
`scores.pseudo_values`; other columns over seeds alone. Of fewer seeds there is a difference, and neither interval nor
p.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import Reading, arrays_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.scores import SCORES, pseudo_values
from marginbench.benchmarks.records.tuning import TUNED
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.statistics.paired import mean_and_interval
from marginbench.benchmarks.statistics.pairwise import MIN_SEEDS, Pairwise, pairwise
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import BASELINE, measured_by
from marginbench.benchmarks.tables.own_networks import network, rows_once
from marginbench.methods import MarginbenchError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteRuns:
    """The runs of one suite that count and ended well."""

    runs: Mapping[str, Sequence[Record]]  # by row
    metrics: Mapping[str, Mapping[str, float]]  # by id of the record
    points: Mapping[str, Mapping[str, "np.ndarray"]]  # by row, then column: mean over seeds of each point, [N] float64

    @property
    def records(self) -> list[Record]:
        """All runs."""
        return [record for runs in self.runs.values() for record in runs]

    def values(self, row: str, column: str) -> list[float]:
        """A number for each network; NaN where it was not measured."""
        return [self.metrics[record.id].get(column, math.nan) for record in self.runs.get(row, ())]

    def measured(self, row: str, column: str) -> list[float]:
        """The numbers of the networks for which there is one."""
        return [value for value in self.values(row, column) if not math.isnan(value)]

    def mean(self, row: str, column: str) -> float:
        """Over the networks; NaN without one."""
        return mean_and_interval(self.values(row, column))[0]

    def baseline_of(self, row: str) -> str:
        """The row it is compared with. That of a tuned row is tuned too, with the same budget, if it can."""
        tuned = f"{BASELINE}{TUNED}"
        of_tuned = self.runs[row][0].tuning is not None and row != tuned and tuned in self.runs
        return tuned if of_tuned else BASELINE

    def comparable(self, row: str, column: str) -> bool:
        """Whether the row has finite numbers of three seeds, and arrays where these are compared."""
        values = self.values(row, column)
        known = column not in columns.POINTWISE or column in self.points.get(row, {})
        return known and len(values) >= MIN_SEEDS and all(map(math.isfinite, values))


Suites = Mapping[str, SuiteRuns]  # by fingerprint of the suite


@dataclass(frozen=True)
class Difference:
    """Of the means of two rows over their networks; NaN where it cannot be said."""

    value: float
    low: float = math.nan  # of its 95 % interval, uncorrected
    high: float = math.nan
    p: float = math.nan  # two-sided, that there is none; uncorrected


@dataclass(frozen=True)
class ColumnPairs:
    """All rows of a suite in one column, beside each other."""

    suite: SuiteRuns
    column: Column
    rows: Sequence[str]  # that can be compared, the best mean first
    pairs: Pairwise | None  # of these rows; None where there is none

    def difference(self, a: str, b: str) -> Difference:
        """The mean of a minus that of b."""
        if self.pairs is None or a not in self.rows or b not in self.rows:
            return Difference(self.suite.mean(a, self.column.name) - self.suite.mean(b, self.column.name))
        i, j = self.rows.index(a), self.rows.index(b)
        middle, half = float(self.pairs.difference[i, j]), float(self.pairs.half[i, j])
        return Difference(middle, middle - half, middle + half, float(self.pairs.p[i, j]))


def column_pairs(suite: SuiteRuns, column: Column) -> ColumnPairs:
    """Compare all rows that can be compared."""
    name = column.name
    rows = [row for row in suite.runs if suite.comparable(row, name)]
    means = dict(zip(rows, levels(suite.mean(row, name) for row in rows), strict=True))
    order = sorted(rows, key=lambda row: (means[row] if column.ascending else -means[row], row))
    return ColumnPairs(suite, column, order, compared(suite, [(row, name) for row in order], column) if order else None)


def compared(suite: SuiteRuns, cells: Sequence[tuple[str, str]], column: Column) -> Pairwise:
    """Compare rows, each in a column of its own; all are of the kind of one."""
    import numpy as np

    repetitions = sorted({record.repetition for row, _ in cells for record in suite.runs[row]})
    seeds = np.full((len(cells), len(repetitions)), np.nan)
    for k, (row, name) in enumerate(cells):
        for record, value in zip(suite.runs[row], suite.values(row, name), strict=True):
            seeds[k, repetitions.index(record.repetition)] = value
    points = None
    if column.name in columns.POINTWISE:
        points = np.stack([suite.points[row][name] for row, name in cells])
    own = rows_once([[(network(record), name) for record in suite.runs[row]] for row, name in cells])
    return pairwise(seeds, points, _size(np.nanmean(seeds, 1), points, columns.is_share(column)), np.array(own))


def suite_runs(source: Reading | Suites) -> Suites:
    """The runs of each suite, of the records that count and ended well.

    Args:
        source: records by path, beside which the arrays lie: without its arrays a row is compared in no column that is
            known point by point. Runs that were read already are returned.
    """
    if not isinstance(source, Reading):
        return source
    counted = [record for record in current(source.records.values()) if record.status == "done"]
    paths = {record.id: path for path, record in source.records.items()}
    metrics = measured_by(counted)
    found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in counted:
        found[record.identity.suite][record.method].append(record)
    return {fingerprint: SuiteRuns(rows, metrics, _points(rows, paths)) for fingerprint, rows in found.items()}


def _points(rows: Mapping[str, Sequence[Record]], paths: Mapping[str, Path]) -> dict[str, dict[str, "np.ndarray"]]:
    """By row and column the mean over seeds of each point; nothing where arrays are missing or of other points."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    images: dict[str, bytes] = {}
    for row, records in rows.items():
        if any(record.arrays_sha256 is None for record in records):
            continue
        own: dict[str, np.ndarray] = {}
        measured_on = set()
        try:
            for record in records:
                arrays = arrays_of(paths[record.id], record)
                measured_on.add(b"".join(arrays[key].tobytes() for key in ("index", "label") if key in arrays))
                if len(measured_on) > 1:
                    raise MarginbenchError(f"record {paths[record.id]}: measured on other test points")
                for name, values in _by_column(arrays, record):
                    own[name] = own.get(name, 0.0) + values.astype(float) / len(records)
        except MarginbenchError as error:
            log.warning("row %s is not compared point by point: %s", row, error)
        else:
            sums[row], images[row] = own, measured_on.pop()
    usual = Counter(images.values()).most_common(1)
    for row, measured in images.items():
        if measured != usual[0][0]:
            path = paths[rows[row][0].id]
            log.warning("row %s is not compared point by point: record %s: measured on other test points", row, path)
            del sums[row]
    return sums


def _by_column(arrays: Mapping[str, "np.ndarray"], record: Record) -> "Iterator[tuple[str, np.ndarray]]":
    from marginbench.benchmarks.records.metrics import enclosed, per_point  # imports numpy

    found = per_point(arrays, record.epsilon)
    yield from found.items()
    for norm in enclosed(arrays):
        robust = found[f"robust_accuracy_{norm}"]
        yield f"unknown_{norm}", robust & ~found.get(f"certified_accuracy_{norm}", robust & False)
    for name in ("output_margin", "feature_margin"):
        if name in arrays:
            yield name, arrays[name]
    for name in SCORES:
        if name in record.metrics:
            yield name, pseudo_values(name, arrays)


def _size(means: "np.ndarray", points: "np.ndarray | None", share: bool) -> "np.ndarray | float":
    """What the luck of the seeds is roughly proportional to: p (1 - p) for a share, the square of a positive number."""
    if share:
        count = 100 if points is None else points.shape[1]
        shrunk = (means * count + 2) / (count + 4)  # Agresti and Coull's, so that shares of 0 have some
        return shrunk * (1 - shrunk)
    return means**2 if (means > 0).all() else 1.0
