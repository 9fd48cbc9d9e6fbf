"""Whether two rows of a leaderboard differ, column by column, and on how many images.

Difference, interval and p are those of all tables, see `pairs`, with Holm's correction over the columns. This adds the
images on which one row is above the other, in each pair of networks of one seed. Of fewer than three seeds that is all,
and it speaks about these networks, not about what other seeds would give.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginbench.benchmarks.records.current import MARKS, current, marks
from marginbench.benchmarks.records.metrics import per_point
from marginbench.benchmarks.records.reader import RESULTS, Reading, read_arrays
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.scores import SCORES
from marginbench.benchmarks.records.source import Source, reading_of
from marginbench.benchmarks.statistics.paired import LEVEL, holm, sign_test
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.choice import canonical
from marginbench.benchmarks.tables.pairs import ColumnPairs, column_pairs, suite_runs
from marginbench.methods import NORMS, MarginbenchError
from marginbench.methods.errors import suggest

if TYPE_CHECKING:
    import pandas as pd

# what can be compared over test points, in the order of a page
COMPARED = tuple(column for column in columns.paged(SCORES.values()) if column is not columns.COST)
FEW = "too few seeds"


@dataclass(frozen=True)
class Compared:
    """One column of two rows. Shares are in [0, 1], margins in pixels of [0, 1]; NaN where nothing can be said."""

    column: str
    mean_a: float  # over all networks of the row, as in the leaderboard
    mean_b: float
    difference: float  # a minus b
    low: float  # of its 95 % interval
    high: float
    p: float  # two-sided, uncorrected
    above: tuple[int, ...]  # of each pair of networks: images on which a is above b; none where nothing was measured
    below: tuple[int, ...]
    p_images: tuple[float, ...]  # of the exact sign test over these images: McNemar's for shares
    infinite: int  # images that no attack moved in some network of either row
    points: int


def compare_rows(a: str, b: str, source: Source = RESULTS, *, strict: bool = False) -> "pd.DataFrame":
    """Compare two rows of a leaderboard in every suite that holds both, by the records that count.

    The folders make one table, as in the leaderboard: rows may stand in different ones. All rows found in them teach
    how much luck seeds bring, so that the numbers are those of the leaderboard of the same folders.

    Args:
        a, b: method specs or names, as the leaderboard shows them.
        source: see `reading_of`; the arrays are needed.
        strict: raise where a record cannot be read, instead of a warning. Arrays that are compared are checked anyway.

    Returns:
        one row per suite and column, with the fields of `Compared`, p after Holm's correction over the columns of that
        suite, and the verdict: `differs`, `not shown`, `too few seeds`, `infinite` or `not measured`, also where a
        number is NaN. `seeds` are those that both rows have.

    Raises:
        MarginbenchError: no such folder, unknown row or one that does not count, no suite in common, no run of a row
            that ended well, different test points, or an array file that is not the one that was written.
    """
    import pandas as pd

    reading = reading_of(source, strict=strict, arrays=True)
    rows: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in current(reading.records.values()):
        rows[record.method][record.identity.suite].append(record)
    why = marks(reading.records.values())
    left_out = {record.method: why[record.id] for record in reading.records.values() if record.method not in rows}
    a, b = (_find(name, rows, left_out) for name in (a, b))
    if a == b:
        raise MarginbenchError(f"compare {a} with another row")
    common = [suite for suite in rows[a] if suite in rows[b]]
    if not common:
        held = " and ".join(f"{name} in {_suites(rows[name].values())}" for name in (a, b))
        raise MarginbenchError(f"no suite in common: {held}; run both with the same suite")
    return pd.DataFrame(line for suite in common for line in _of_suite(a, b, rows[a][suite], rows[b][suite], reading))


def _find(name: str, known: Collection[str], left_out: Mapping[str, str]) -> str:
    """The row of that name, or of the spec in its canonical form."""
    if name in known:
        return name
    spec = canonical(name)
    if spec in left_out:
        mark = left_out[spec]
        raise MarginbenchError(f"row {spec!r} does not count, it is marked {mark}. {MARKS[mark]}")
    if spec not in known:
        raise MarginbenchError(f"no row {name!r} in these folders: {suggest(name, known)}")
    return spec


def _suites(groups: Iterable[Sequence[Record]]) -> str:
    return ", ".join(f"{group[0].suite.name} ({group[0].identity.suite[:8]})" for group in groups)


def _of_suite(a: str, b: str, of_a: list[Record], of_b: list[Record], reading: Reading) -> list[dict[str, Any]]:
    first = of_a[0]
    paths = {record.id: path for path, record in reading.records.items()}
    images_a, images_b = _images(a, of_a, paths), _images(b, of_b, paths)
    _check_points(f"suite {first.suite.name}: {a} and {b}", [*images_a.values(), *images_b.values()])
    suite = suite_runs(reading.where(lambda record: record.identity.suite == first.identity.suite))
    seeds = sorted(set(images_a) & set(images_b))
    pairs = [(images_a[seed], images_b[seed]) for seed in seeds]
    every = [*images_a.values(), *images_b.values()]
    records = (*of_a, *of_b)
    asked = [column for column in COMPARED if any(column.name in record.metrics for record in records)]
    table = [_column(column_pairs(suite[first.identity.suite], column), a, b, pairs, every) for column in asked]
    adjusted = holm([column.p for column in table])
    facts: dict[str, Any] = {
        "suite": first.suite.name,
        "title": first.suite.title,
        "suite_fingerprint": first.identity.suite,
        "a": a,
        "b": b,
        "seeds": _joined(seeds),
        "at_epsilon": " ".join(sorted({name for record in (*of_a, *of_b) for name in record.at_epsilon})),
        **{f"epsilon_{norm}": first.epsilon.get(norm, math.nan) for norm in NORMS},  # none of sentences
    }
    return [
        {
            **facts,
            **asdict(column),
            "above": _joined(column.above),
            "below": _joined(column.below),
            "p_images": " ".join(f"{p:.6g}" for p in column.p_images),
            "p_holm": p,
            "verdict": _verdict(column, p),
        }
        for column, p in zip(table, adjusted, strict=True)
    ]


Images = Mapping[str, np.ndarray]  # of one network, by column and `index` and `label`: [N]


def _images(row: str, records: Sequence[Record], paths: Mapping[str, Path]) -> dict[int, Images]:
    """By seed, of the runs that ended well."""
    done = [record for record in records if record.status == "done"]
    if not done:
        raise MarginbenchError(f"suite {records[0].suite.name}: no run of {row} ended well")
    found: dict[int, Images] = {}
    for record in done:
        arrays = read_arrays(paths[record.id])
        images: dict[str, np.ndarray] = {key: arrays[key] for key in ("index", "label") if key in arrays}
        images.update(per_point(arrays, record.epsilon))
        found[record.repetition] = images
    return found


def _check_points(what: str, networks: Sequence[Images]) -> None:
    first = networks[0]
    for other in networks[1:]:
        for key in ("index", "label"):
            if (key in first) != (key in other) or not np.array_equal(first.get(key, ()), other.get(key, ())):
                raise MarginbenchError(f"{what} have different test points")


def _column(
    between: ColumnPairs, a: str, b: str, pairs: Sequence[tuple[Images, Images]], every: Sequence[Images]
) -> Compared:
    name = between.column.name
    known = all(name in network for network in every)
    counts = [_above_and_below(first[name], second[name]) for first, second in pairs] if known else []
    difference = between.difference(a, b)
    return Compared(
        name,
        between.suite.mean(a, name),
        between.suite.mean(b, name),
        difference.value,
        difference.low,
        difference.high,
        difference.p,
        tuple(above for above, _ in counts),
        tuple(below for _, below in counts),
        tuple(sign_test(*count) for count in counts),
        int(np.any([np.isinf(network[name]) for network in every], 0).sum()) if known else 0,
        len(every[0]["clean_accuracy"]),
    )


def _above_and_below(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    return int((a > b).sum()), int((a < b).sum())


def _joined(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _verdict(column: Compared, p_holm: float) -> str:
    if not math.isnan(p_holm):
        return "differs" if p_holm < LEVEL else "not shown"
    if math.isinf(column.mean_a) or math.isinf(column.mean_b):
        return "infinite"
    return "not measured" if math.isnan(column.difference) else FEW
