"""Where each row of a table stands in each column: its interval, its difference to the baseline, its ranks, its group.

Rows are compared within one suite, by the records that count, from three seeds on. What is known point by point is
compared over seeds and test points, other columns over seeds alone.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import Reading, arrays_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.intervals import interval
from marginbench.benchmarks.statistics.letters import groups, letters
from marginbench.benchmarks.statistics.paired import LEVEL, holm, mean_and_interval
from marginbench.benchmarks.statistics.pairwise import MIN_SEEDS, Pairwise, pairwise
from marginbench.benchmarks.statistics.ranks import rank_intervals
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import BASELINE, measured_by
from marginbench.methods import NORMS, MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """Of one row in one column of its suite. NaN or None where it cannot be said, such as below three seeds.

    Differences, ranks and letters are those of `statistics.pairwise`, whose docstring gives their error rates.
    """

    mean: float
    low: float = math.nan  # of the mean's 95 % interval, see `statistics.intervals`
    high: float = math.nan
    n: int = 0  # networks
    difference: float = math.nan  # to the baseline, over seeds and test points
    difference_low: float = math.nan  # of its 95 % interval, uncorrected
    difference_high: float = math.nan
    p: float = math.nan  # that there is none; after Holm's correction over the rows of the table
    best_rank: int | None = None  # 95 % interval of the rank among the rows that can be compared, 1 is the best
    worst_rank: int | None = None
    letters: str = ""  # rows that share one cannot be told apart; Holm's correction over all pairs
    group: int | None = None  # no two rows of a group can be told apart, 1 is the best

    @property
    def ranks(self) -> str:
        """`2–14`, or one number where there is no other; nothing where ranks are not known."""
        if not self.best_rank:
            return ""
        return f"{self.best_rank}" if self.best_rank == self.worst_rank else f"{self.best_rank}–{self.worst_rank}"


Standings = dict[tuple[str, str], dict[str, Standing]]  # by fingerprint of the suite and row, then by column


@dataclass(frozen=True)
class _Suite:
    """The runs of one suite that count and ended well."""

    runs: Mapping[str, Sequence[Record]]  # by row
    metrics: Mapping[str, Mapping[str, float]]  # by id of the record
    points: Mapping[str, Mapping[str, "np.ndarray"]]  # by row, then column: mean over seeds of each point, [N]

    def values(self, row: str, column: str) -> list[float]:
        return [self.metrics[record.id].get(column, math.nan) for record in self.runs[row]]


def standings(reading: Reading, names: Sequence[str] | None = None) -> Standings:
    """Where all rows that count stand.

    Beside the measured columns there are `surely_better_NORM`, whose mean is a number of rows: those whose robust
    accuracy, that no attack has been able to lower further, is below the certified accuracy of this row. Robustness of
    either lies between the two, so that this one is better whatever the truth. The difference must be above 0 over
    seeds and test points, one-sided, after Holm's correction over all ordered pairs.

    Args:
        reading: records by path, beside which the arrays lie. Without its arrays a row is compared in no column that is
            known point by point.
        names: columns, those that are measured and `surely_better_NORM`. Default: all.

    Raises:
        ParameterError: no such column.
    """
    counted = [record for record in current(reading.records.values()) if record.status == "done"]
    known = {column.name: column for column in columns.measured(columns.of_probes(counted))}
    every = [*known, *columns.SURELY_BETTER]
    wanted = every if names is None else list(names)
    for name in wanted:
        if name not in every:
            raise ParameterError("names", name, f"no such column: {suggest(name, every)}")
    out: Standings = {}
    for fingerprint, suite in _suites(reading, counted).items():
        for row in suite.runs:
            out[fingerprint, row] = {}
        for name in wanted:
            found = _surely_better(suite, name) if name in columns.SURELY_BETTER else _column(suite, known[name])
            for row, standing in found.items():
                out[fingerprint, row][name] = standing
    return out


def _suites(reading: Reading, counted: Sequence[Record]) -> dict[str, _Suite]:
    paths = {record.id: path for path, record in reading.records.items()}
    metrics = measured_by(counted)
    found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in counted:
        found[record.identity.suite][record.method].append(record)
    return {fingerprint: _Suite(rows, metrics, _points(rows, paths)) for fingerprint, rows in found.items()}


def _points(rows: Mapping[str, Sequence[Record]], paths: Mapping[str, Path]) -> dict[str, dict[str, "np.ndarray"]]:
    """By row and column the mean over seeds of each point; nothing where arrays are missing or of other points."""
    import numpy as np

    out = {}
    same = None
    for row, records in rows.items():
        if any(record.arrays_sha256 is None for record in records):
            continue
        sums: dict[str, np.ndarray] = {}
        try:
            for record in records:
                arrays = arrays_of(paths[record.id], record)
                index = [arrays[key] for key in ("index", "label") if key in arrays]
                same = index if same is None else same
                if len(index) != len(same) or not all(map(np.array_equal, index, same)):
                    raise MarginbenchError(f"record {paths[record.id]}: measured on other test points")
                for name, values in _by_column(arrays, record):
                    sums[name] = sums.get(name, 0.0) + values.astype(float) / len(records)
        except MarginbenchError as error:
            log.warning("row %s is not compared point by point: %s", row, error)
        else:
            out[row] = sums
    return out


def _by_column(arrays: Mapping[str, "np.ndarray"], record: Record) -> "Iterator[tuple[str, np.ndarray]]":
    from marginbench.benchmarks.records.metrics import per_point  # imports numpy

    found = per_point(arrays, record.epsilon)
    yield from found.items()
    for norm in NORMS:
        robust = found[f"robust_accuracy_{norm}"]
        yield f"unknown_{norm}", robust & ~found.get(f"certified_accuracy_{norm}", robust & False)
    for name in ("output_margin", "feature_margin"):
        if name in arrays:
            yield name, arrays[name]


def _column(suite: _Suite, column: Column) -> dict[str, Standing]:
    name = column.name
    values = {row: suite.values(row, name) for row in suite.runs}
    pointwise = name in columns.POINTWISE
    compared = [
        row for row in values if _comparable(values[row]) and (not pointwise or name in suite.points.get(row, {}))
    ]
    out = {row: _alone(suite, row, column) for row in values}
    order = sorted(compared, key=lambda row: (out[row].mean if column.ascending else -out[row].mean, row))
    if not order:
        return out
    pairs = _pairs(suite, [(row, name) for row in order], column)
    better = -pairs.difference if column.ascending else pairs.difference
    return {**out, **_among(order, {row: out[row] for row in order}, pairs, better)}


def _comparable(values: Sequence[float]) -> bool:
    return len(values) >= MIN_SEEDS and all(map(math.isfinite, values))


def _alone(suite: _Suite, row: str, column: Column) -> Standing:
    """What can be said of a row without the others."""
    values = suite.values(row, column.name)
    mean, _ = mean_and_interval(values)
    low, high = interval(values, _images(suite.runs[row][0], column))
    base = mean_and_interval(suite.values(BASELINE, column.name))[0] if BASELINE in suite.runs else math.nan
    difference = mean - base if math.isfinite(mean) and row != BASELINE else math.nan
    return Standing(mean, low, high, len(values), difference if math.isfinite(base) else math.nan)


def _images(record: Record, column: Column) -> int | None:
    """Of how many images the column is a share; None where it is none, or that is not known."""
    if not columns.is_share(column):
        return None
    if column.name in ("train_accuracy", "validation_accuracy"):  # as many of one as of the other
        data = record.suite.settings.get("data")
        return data.get("validation") if isinstance(data, Mapping) else None
    return int(record.metrics.get("points", 0)) or None


def _among(
    order: Sequence[str], alone: Mapping[str, Standing], pairs: Pairwise, better: "np.ndarray"
) -> dict[str, Standing]:
    """What can be said of the rows together, the best first."""
    import numpy as np

    rows = range(len(order))
    i, j = np.triu_indices(len(order), 1)
    differ = np.zeros(pairs.p.shape, bool)
    differ[i, j] = differ[j, i] = np.array(holm(pairs.p[i, j].tolist())) < LEVEL
    shared, of_group = letters(differ.tolist()), groups(differ.tolist())
    ranks = rank_intervals(better, pairs.p)
    out = {
        order[k]: replace(
            alone[order[k]],
            best_rank=ranks[k][0],
            worst_rank=ranks[k][1],
            letters=shared[k],
            group=of_group[k],
        )
        for k in rows
    }
    if BASELINE in order:
        base = order.index(BASELINE)
        others = [k for k in rows if k != base]
        for k, p in zip(others, holm([float(pairs.p[k, base]) for k in others]), strict=True):
            middle, half = float(pairs.difference[k, base]), float(pairs.half[k, base])
            out[order[k]] = replace(
                out[order[k]], difference=middle, difference_low=middle - half, difference_high=middle + half, p=p
            )
    return out


def _pairs(suite: _Suite, cells: Sequence[tuple[str, str]], column: Column) -> Pairwise:
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
    return pairwise(seeds, points, _size(np.nanmean(seeds, 1), points, columns.is_share(column)))


def _size(means: "np.ndarray", points: "np.ndarray | None", share: bool) -> "np.ndarray | float":
    """What the luck of the seeds is roughly proportional to: p (1 - p) for a share, the square of a positive number."""
    if share:
        count = 100 if points is None else points.shape[1]
        shrunk = (means * count + 2) / (count + 4)  # Agresti and Coull's, so that shares of 0 have some
        return shrunk * (1 - shrunk)
    return means**2 if (means > 0).all() else 1.0


def _surely_better(suite: _Suite, name: str) -> dict[str, Standing]:
    norm = columns.norm_of(name)
    certified, robust = f"certified_accuracy_{norm}", f"robust_accuracy_{norm}"
    compared = [row for row in suite.runs if _comparable(suite.values(row, robust)) and row in suite.points]
    proven = [row for row in compared if _comparable(suite.values(row, certified)) and certified in suite.points[row]]
    counts = dict.fromkeys(compared, 0)
    if proven:
        (column,) = (column for column in columns.ACCURACIES if column.name == robust)
        cells = [*((row, certified) for row in proven), *((row, robust) for row in compared)]
        pairs = _pairs(suite, cells, column)
        ordered = [(a, b) for a in range(len(proven)) for b in range(len(compared)) if proven[a] != compared[b]]
        ahead = [pairs.difference[a, len(proven) + b] > 0 for a, b in ordered]
        halves = [float(pairs.p[a, len(proven) + b]) / 2 for a, b in ordered]
        adjusted = holm([p if up else 1 - p for p, up in zip(halves, ahead, strict=True)])
        for (a, _), p in zip(ordered, adjusted, strict=True):
            counts[proven[a]] += p < LEVEL
    return {row: Standing(float(counts.get(row, math.nan)), n=len(records)) for row, records in suite.runs.items()}
