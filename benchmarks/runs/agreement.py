"""Does a run that was done again agree with its record: to the bit, within a seed's spread, or not?"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np

from marginbench.benchmarks.records.differences import Difference
from marginbench.benchmarks.records.record import Record

Answer = Literal["same bits", "a seed's spread", "no"]
Arrays = Mapping[str, np.ndarray]

WIDTH = 4.0  # standard deviations of a row's seeds
DERIVED = 1e-5  # relative: how exactly metrics follow from arrays, for versions of numpy sum in another order
POINTS = ("index", "label")  # arrays that say what was measured


class Verdict(NamedTuple):
    answer: Answer
    why: str = ""


@dataclass(frozen=True)
class Spread:
    """How much seeds differ, metric by metric, as far as is known without the record in question."""

    own: Mapping[str, float]  # standard deviations of the other seeds of its row
    pooled: Mapping[str, float]  # those of all other rows of the suite, root mean square

    def limit(self, metric: str, points: float) -> float | None:
        """How far apart two runs may be: 4 s, s being the larger one of `own` and `pooled`, and one point's share at
        least; None where neither is known.

        Rows have three seeds as a rule, and two alone often lie close together. Of the metrics of a run that is no
        more like its record than another seed is, 1 % are beyond this, up to 13 % in the rows whose seeds differ most
        (normal distributions with the deviations of the committed rows), and more where a folder holds one row.
        """
        known = [table[metric] for table in (self.own, self.pooled) if metric in table]
        return max(WIDTH * max(known), 1 / points) if known else None


def spread_around(record: Record, records: Iterable[Record]) -> Spread:
    """The spread of its row and of the others; the record would hide in its own, however far off it is.

    Args:
        records: those of its suite.
    """
    rows: defaultdict[str, list[Record]] = defaultdict(list)
    for other in records:
        if other.id != record.id:
            rows[other.method].append(other)
    own = _deviations(rows.pop(record.method, ()))
    every: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows.values():
        for metric, deviation in _deviations(row).items():
            every[metric].append(deviation**2)
    return Spread(own, {metric: math.sqrt(fmean(squares)) for metric, squares in every.items()})


def _deviations(seeds: Iterable[Record]) -> dict[str, float]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for record in seeds:
        for metric, value in record.metrics.items():
            if math.isfinite(value):
                values[metric].append(value)
    return {metric: stdev(found) for metric, found in values.items() if len(found) > 1}


def judge(
    record: Record, arrays: Arrays, again: Record, anew: Arrays, spread: Spread, unlike: Sequence[Difference]
) -> Verdict:
    """What to say of a record.

    Equal bits, of all per-point arrays and of the losses, are asked for on CPUs where nothing differs that records
    name. Elsewhere all metrics may differ as far as `spread.limit` allows. A mean that is infinite is not compared: the
    share of points that no attack moved is a metric too.

    Args:
        arrays: of the record.
        again, anew: record and arrays of the run that was done again.
        unlike: in what the environments differ.
    """
    if again.status == "failed":
        return Verdict("no", f"fails here: {again.error}")
    if anew.keys() != arrays.keys():
        parts = (f"{name} {'here' if name in anew else 'in the record'} alone" for name in anew.keys() ^ arrays.keys())
        return Verdict("no", f"not the same arrays: {', '.join(sorted(parts))}")
    moved = [name for name in POINTS if name in arrays and not same_bits(arrays[name], anew[name])]
    if moved:
        return Verdict("no", f"other points were measured: {', '.join(moved)} differ")
    changed = sorted(name for name in arrays if not same_bits(arrays[name], anew[name]))
    if not changed and record.losses == again.losses:
        return Verdict("same bits")
    what = f"{len(changed)} of {len(arrays)} arrays" if changed else "the losses"
    if not unlike and again.environment.device == "cpu":  # CUDA adds some numbers in no fixed order
        return Verdict("no", f"{what} differ, although the environments do not")
    return _by_metrics(record, again, spread, what)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def contradiction(record: Record, derived: Mapping[str, float]) -> str | None:
    """The first metric that is not what the record's own arrays give.

    Args:
        derived: what they give.
    """
    for metric, value in derived.items():
        said = record.metrics.get(metric)
        if said is None or not _equal(said, value):
            return f"{metric} is {said} in the record, but {value:.6g} by its arrays"
    return None


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=DERIVED, abs_tol=DERIVED) or (math.isnan(a) and math.isnan(b))


def _by_metrics(record: Record, again: Record, spread: Spread, what: str) -> Verdict:
    points = record.metrics["points"]
    largest, text = 0.0, "no metric differs"
    for metric, before in record.metrics.items():
        after = again.metrics.get(metric, math.nan)
        if math.isnan(before) != math.isnan(after):
            return Verdict("no", f"{what} differ; {metric} is {before:.6g} in the record, {after:.6g} here")
        if not (math.isfinite(before) and math.isfinite(after)) or _equal(before, after):
            continue
        limit = spread.limit(metric, points)
        if limit is None:
            return Verdict("no", f"{what} differ, and no row has two other seeds: the spread of {metric} is not known")
        share = abs(after - before) / limit
        if share > largest:
            largest, text = share, f"{metric} {before:.4g} -> {after:.4g}, {limit:.2g} allowed"
    return Verdict("no" if largest > 1 else "a seed's spread", f"{what} differ; {text}")
