"""Whether two rows of a leaderboard differ, column by column: paired by repetition and by test point."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginbench.benchmarks.records.current import MARKS, current, marks
from marginbench.benchmarks.records.metrics import per_point
from marginbench.benchmarks.records.reader import RESULTS, read_arrays, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.paired import LEVEL, bootstrap, holm, mcnemar, mean_and_interval, student
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.choice import canonical
from marginbench.methods import NORMS, MarginbenchError
from marginbench.methods.errors import suggest

if TYPE_CHECKING:
    import pandas as pd

# what arrays hold point by point, in the order of a page
COMPARED = tuple(column.name for column in columns.paged() if column is not columns.COST)


@dataclass(frozen=True)
class Compared:
    """One column of two rows. Shares are in [0, 1], margins in pixels of [0, 1]; NaN where nothing was measured."""

    column: str
    mean_a: float  # over the common repetitions
    mean_b: float
    difference: float  # a minus b, over the points at which both are finite in all repetitions
    low: float  # 95 % interval of the bootstrap
    high: float
    student_half: float  # half of Student's 95 % interval, from three repetitions on
    p_bootstrap: float
    p_student: float
    p_mcnemar: tuple[float, ...]  # of each repetition; shares only
    p: float  # what counts, see `compare_column`; NaN where there is no test
    infinite: int  # points at which a or b is infinite in some repetition
    points: int


def compare_column(column: str, a: np.ndarray, b: np.ndarray) -> Compared:
    """Compare one column, a and b [n, N], repetitions by points.

    p is McNemar's for a share of a single repetition, the bootstrap's for another single one. From two repetitions
    on it is the larger one of the bootstrap's and Student's: the first knows that other test points could have been
    drawn, the second is right about the spread of a few networks, and a difference must pass both. Infinite margins
    have no mean that could be tested: p is NaN then, and difference and interval leave these points out. With a NaN
    among the values, all is NaN.
    """
    share = a.dtype == bool
    if not share and (np.isnan(a).any() or np.isnan(b).any()):
        means = float(a.mean()), float(b.mean())
        return Compared(column, *means, *(math.nan,) * 6, (), math.nan, 0, a.shape[1])
    finite = (np.isfinite(a) & np.isfinite(b)).all(0)
    d = a[:, finite].astype(float) - b[:, finite].astype(float)
    low, high, p_bootstrap = bootstrap(d) if d.size else (math.nan,) * 3
    by_repetition = [float(value) for value in d.mean(1)] if d.size else []
    mean, half = mean_and_interval(by_repetition)
    p_student = student(by_repetition)
    tests = tuple(mcnemar(*pair) for pair in zip(a, b, strict=True)) if share else ()
    if not finite.all():
        p = math.nan
    elif len(a) == 1:
        p = tests[0] if share else p_bootstrap
    else:
        p = max(p_bootstrap, p_student)
    return Compared(
        column,
        float(a.mean()),
        float(b.mean()),
        mean,
        low,
        high,
        math.nan if half is None else half,
        p_bootstrap,
        p_student,
        tests,
        p,
        int((~finite).sum()),
        a.shape[1],
    )


def compare_rows(a: str, b: str, *folders: str | Path, strict: bool = False) -> "pd.DataFrame":
    """Compare two rows of a leaderboard in every suite that holds both, by the records that count.

    Args:
        a, b: method specs or names, as the leaderboard shows them.
        folders: output folders, the records of which are read. Default: results/local.
        strict: raise where a record cannot be read, instead of a warning. Arrays that are compared are checked anyway.

    Returns:
        one row per suite and column, with the fields of `Compared`, p after Holm's correction over the columns of that
        suite, and the verdict: `differs`, `not shown`, `infinite` or `not measured`, also where a number is NaN.

    Raises:
        MarginbenchError: no such folder, unknown row or one that does not count, no suite or repetition in common,
            different test points, or an array file that is not the one that was written.
    """
    import pandas as pd

    reading = read_folders(folders or [RESULTS], strict=strict)
    reading.warn()
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
    paths = {record.id: path for path, record in reading.records.items()}
    return pd.DataFrame(line for suite in common for line in _compare(a, b, rows[a][suite], rows[b][suite], paths))


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


def _compare(a: str, b: str, of_a: list[Record], of_b: list[Record], paths: Mapping[str, Path]) -> list[dict[str, Any]]:
    suite = of_a[0].suite.name
    done = [{r.repetition: r for r in group if r.status == "done"} for group in (of_a, of_b)]
    common = sorted(set(done[0]) & set(done[1]))
    if not common:
        held = " and ".join(f"{name} has {sorted(runs) or 'none'}" for name, runs in zip((a, b), done, strict=True))
        raise MarginbenchError(f"suite {suite}: no repetition in common that ended well: {held}")
    values: list[list[dict[str, np.ndarray]]] = []
    for repetition in common:
        pair = [runs[repetition] for runs in done]
        arrays = [read_arrays(paths[record.id]) for record in pair]
        if any(not _same(key, *arrays) for key in ("index", "label")):
            raise MarginbenchError(f"suite {suite}, repetition {repetition}: {a} and {b} have different test points")
        values.append([per_point(array, record.epsilon) for array, record in zip(arrays, pair, strict=True)])
    compared = [
        compare_column(name, *(_stacked([pair[side][name] for pair in values]) for side in (0, 1)))
        if all(name in run for pair in values for run in pair)
        else Compared(name, *(math.nan,) * 8, (), math.nan, 0, len(values[0][0]["clean_accuracy"]))
        for name in COMPARED
    ]
    tested = [column for column in compared if not math.isnan(column.p)]
    adjusted = dict(zip((column.column for column in tested), holm([column.p for column in tested]), strict=True))
    facts: dict[str, Any] = {
        "suite": suite,
        "title": of_a[0].suite.title,
        "suite_fingerprint": of_a[0].identity.suite,
        "a": a,
        "b": b,
        "repetitions": " ".join(map(str, common)),
        "at_epsilon": " ".join(sorted({name for record in (*of_a, *of_b) for name in record.at_epsilon})),
        **{f"epsilon_{norm}": of_a[0].epsilon[norm] for norm in NORMS},
    }
    return [
        {
            **facts,
            **asdict(column),
            "p_mcnemar": " ".join(f"{p:.6g}" for p in column.p_mcnemar),
            "p_holm": adjusted.get(column.column, math.nan),
            "verdict": _verdict(column, adjusted.get(column.column)),
        }
        for column in compared
    ]


def _same(key: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """The array is equal in both, or in neither."""
    return np.array_equal(a[key], b[key]) if key in a and key in b else key not in a and key not in b


def _stacked(runs: list[np.ndarray]) -> np.ndarray:
    """[n, N] bool or float64."""
    values = np.stack(runs)
    return values if values.dtype == bool else values.astype(float)


def _verdict(column: Compared, p_holm: float | None) -> str:
    if p_holm is not None:
        return "differs" if p_holm < LEVEL else "not shown"
    return "infinite" if column.infinite else "not measured"
