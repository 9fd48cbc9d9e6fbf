"""Whether two rows of a leaderboard differ, column by column: paired by repetition and by test point.

Statistics first, as functions of arrays; then what reads records and writes the table.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marginbench.benchmarks.records.metrics import NORM_TEXT, per_point
from marginbench.benchmarks.records.record import Record, read_arrays, read_record, record_paths
from marginbench.benchmarks.tables.leaderboard import newest_versions
from marginbench.benchmarks.tables.statistics import MIN_FOR_INTERVAL, mean_and_interval, standard_error
from marginbench.methods import NORMS, MarginbenchError, create, spec_of
from marginbench.methods.errors import suggest

LEVEL = 0.05  # of the verdicts, over all columns of a table
DRAWS = 5000  # of the bootstrap
COLUMNS = (
    "clean_accuracy",
    *(f"{kind}_accuracy_{norm}" for kind in ("robust", "certified") for norm in reversed(NORMS)),
    *(f"margin_{end}_{norm}" for norm in NORMS for end in ("lower", "upper")),
)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of McNemar's exact test that two shares of the same points are equal.

    Of the m points on which a and b disagree, k hold for one of them and m - k for the other; if both shares are
    equal, k is binomial with probability 1/2, and p = min(1, 2 P(K <= min(k, m - k))). McNemar, Psychometrika 12,
    1947; the exact form is the sign test.

    Args:
        a, b: [N] bool, the same points in the same order.
    """
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    m = first + second
    tail = sum(math.comb(m, i) for i in range(min(first, second) + 1))
    return float(min(1.0, 2 * tail / 2**m))


def bootstrap(differences: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """95 % interval of the mean difference, and two-sided p, from resampled repetitions and points.

    Every draw takes n repetitions and N points with replacement. The points are the same images in all repetitions,
    so that one draw of points serves all of them ("pigeonhole bootstrap": Owen, Annals of Applied Statistics 1, 2007).
    The interval is that of the percentiles; p = min(1, 2 (1 + min(#{mean <= 0}, #{mean >= 0})) / (draws + 1)).

    With few repetitions it understates their spread, by a factor of up to sqrt((n - 1) / n); with one it only speaks
    about these networks.

    Args:
        differences: [n, N] float, repetitions by points.
    """
    n, points = differences.shape
    stream = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, 2**21 // differences.size)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        chosen = stream.integers(points, size=(count, points))
        repetitions = stream.integers(n, size=(count, n))
        of_each = differences[:, chosen].mean(2).T  # [count, n]
        means[start : start + count] = np.take_along_axis(of_each, repetitions, 1).mean(1)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return float(low), float(high), min(1.0, 2 * (1 + smaller) / (draws + 1))


def student(means: Sequence[float]) -> float:
    """Two-sided p of Student's paired t test over repetitions: t = mean / (s / sqrt(n)), n - 1 degrees of freedom.

    The test points are held fixed. NaN for a single repetition.
    """
    n = len(means)
    if n < 2:
        return math.nan
    from scipy.stats import t  # slow to import

    mean, error = math.fsum(means) / n, standard_error(means)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: max over j <= i of min(1, (m - j + 1) p_(j)), with p_(1) <= ... <= p_(m).

    Rejecting those below 5 % keeps the chance of any false rejection at 5 %, however the tests depend on each other
    (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Column:
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


def compare_column(column: str, a: np.ndarray, b: np.ndarray) -> Column:
    """Compare one column, a and b [n, N], repetitions by points.

    p is McNemar's for a share of a single repetition, the bootstrap's for another single one. From two repetitions
    on it is the larger one of the bootstrap's and Student's: the first knows that other test points could have been
    drawn, the second is right about the spread of a few networks, and a difference must pass both. Infinite margins
    have no mean that could be tested: p is NaN then, and difference and interval leave these points out.
    """
    share = a.dtype == bool
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
    return Column(
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


def compare_rows(a: str, b: str, *folders: str | Path) -> pd.DataFrame:
    """Compare two rows of a leaderboard in every suite that holds both.

    Args:
        a, b: method specs or names, as they stand in the leaderboard.
        folders: output folders, the records of which are read.

    Returns:
        one row per suite and column, with the fields of `Column`, p after Holm's correction over the columns of that
        suite, and the verdict: `differs`, `not shown`, `infinite` or `not measured`.

    Raises:
        MarginbenchError: unknown row, no suite, data or repetition in common, or different test points.
    """
    records: dict[str, tuple[Path, Record]] = {}
    for path in record_paths(map(Path, folders)):
        record = read_record(path)
        records[record.id] = path, record
    rows: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in newest_versions(record for _, record in records.values()):
        rows[record.method][record.identity["suite"]].append(record)
    a, b = (_find(name, rows) for name in (a, b))
    if a == b:
        raise MarginbenchError(f"compare {a} with another row")
    common = [suite for suite in rows[a] if suite in rows[b]]
    if not common:
        held = " and ".join(f"{name} in {_suites(rows[name].values())}" for name in (a, b))
        raise MarginbenchError(f"no suite in common: {held}; run both with the same suite")
    paths = {key: path for key, (path, _) in records.items()}
    return pd.concat([_compare(a, b, rows[a][suite], rows[b][suite], paths) for suite in common], ignore_index=True)


def _find(name: str, known: Iterable[str]) -> str:
    """The row of that name, or of the spec in its canonical form."""
    known = list(known)
    if name in known:
        return name
    try:
        canonical = spec_of(create(name))
    except MarginbenchError:
        canonical = name
    if canonical not in known:
        raise MarginbenchError(f"no row {name!r} in these folders: {suggest(name, known)}")
    return canonical


def _suites(groups: Iterable[Sequence[Record]]) -> str:
    return ", ".join(f"{group[0].suite['name']} ({group[0].identity['suite'][:8]})" for group in groups)


def _compare(a: str, b: str, of_a: list[Record], of_b: list[Record], paths: Mapping[str, Path]) -> pd.DataFrame:
    suite = of_a[0].suite["name"]
    if of_a[0].identity["data"] != of_b[0].identity["data"]:
        raise MarginbenchError(f"suite {suite}: {a} and {b} were measured on different data; repeat the older one")
    done = [{r.repetition: r for r in group if r.status == "done"} for group in (of_a, of_b)]
    common = sorted(set(done[0]) & set(done[1]))
    if not common:
        held = " and ".join(f"{name} has {sorted(runs) or 'none'}" for name, runs in zip((a, b), done, strict=True))
        raise MarginbenchError(f"suite {suite}: no repetition in common that ended well: {held}")
    values: list[list[dict[str, np.ndarray]]] = []
    for repetition in common:
        pair = [runs[repetition] for runs in done]
        arrays = [read_arrays(paths[record.id]) for record in pair]
        if not np.array_equal(arrays[0]["label"], arrays[1]["label"]):
            raise MarginbenchError(f"suite {suite}, repetition {repetition}: {a} and {b} have different test points")
        values.append([per_point(array, record.epsilon) for array, record in zip(arrays, pair, strict=True)])
    columns = [
        compare_column(name, *(_stacked([pair[side][name] for pair in values]) for side in (0, 1)))
        if all(name in run for pair in values for run in pair)
        else Column(name, *(math.nan,) * 8, (), math.nan, 0, len(values[0][0]["clean_accuracy"]))
        for name in COLUMNS
    ]
    tested = [column for column in columns if not math.isnan(column.p)]
    adjusted = dict(zip((column.column for column in tested), holm([column.p for column in tested]), strict=True))
    facts: dict[str, Any] = {
        "suite": suite,
        "title": of_a[0].suite["title"],
        "suite_fingerprint": of_a[0].identity["suite"],
        "a": a,
        "b": b,
        "repetitions": " ".join(map(str, common)),
        "epsilon_l2": of_a[0].epsilon["l2"],
        "epsilon_linf": of_a[0].epsilon["linf"],
    }
    return pd.DataFrame(
        {
            **facts,
            **asdict(column),
            "p_mcnemar": " ".join(f"{p:.6g}" for p in column.p_mcnemar),
            "p_holm": adjusted.get(column.column, math.nan),
            "verdict": _verdict(column, adjusted.get(column.column)),
        }
        for column in columns
    )


def _stacked(runs: list[np.ndarray]) -> np.ndarray:
    """[n, N] bool or float64."""
    values = np.stack(runs)
    return values if values.dtype == bool else values.astype(float)


def _verdict(column: Column, p_holm: float | None) -> str:
    if p_holm is not None:
        return "differs" if p_holm < LEVEL else "not shown"
    return "infinite" if column.infinite else "not measured"


def render_comparison(table: pd.DataFrame) -> str:
    """Markdown: a table for each suite, and how to read it."""
    return "\n".join(_page(rows) for _, rows in table.groupby("suite_fingerprint", sort=False))


def _page(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    a, b = first["a"], first["b"]
    seeds = first["repetitions"].split()
    page = pd.DataFrame(
        [
            {
                "column": _header(row),
                a: _mean(row, "mean_a"),
                b: _mean(row, "mean_b"),
                "difference": _difference(row),
                "p (Holm)": _p(row["p_holm"]),
                "verdict": row["verdict"],
            }
            for _, row in rows.iterrows()
        ]
    )
    text = page.to_markdown(index=False, disable_numparse=True, colalign=["left", *["right"] * 4, "left"])
    notes = "\n".join(f"- {line}" for line in _notes(rows, seeds))
    return f"## {first['suite']}: {first['title']}\n\n{text}\n\n{notes}\n"


def _header(row: pd.Series) -> str:
    kind, middle, *norm = row["column"].split("_")
    if not norm:
        return "clean %"
    text = NORM_TEXT[norm[0]]
    if middle == "accuracy":
        return f"{kind} % {text} {row[f'epsilon_{norm[0]}']:g}"
    return f"margin {text}, {middle}"


def _scale(row: pd.Series) -> tuple[float, int]:
    return (1, 3) if row["column"].startswith("margin") else (100, 1)


def _mean(row: pd.Series, name: str) -> str:
    factor, digits = _scale(row)
    if math.isnan(row[name]):
        return "—"
    return "∞" if math.isinf(row[name]) else f"{factor * row[name]:.{digits}f}"


def _difference(row: pd.Series) -> str:
    if math.isnan(row["difference"]):
        return "—"
    factor, digits = _scale(row)
    middle, low, high = (f"{factor * row[name]:+.{digits}f}" for name in ("difference", "low", "high"))
    half = "" if math.isnan(row["student_half"]) else f" ± {factor * row['student_half']:.{digits}f}"
    return f"{middle}{half} [{low}, {high}]"


def _p(p: float) -> str:
    if math.isnan(p):
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _notes(rows: pd.DataFrame, seeds: Sequence[str]) -> Iterable[str]:
    first = rows.iloc[0]
    n, tested = len(seeds), int(rows["p"].notna().sum())
    half = ", ± half of Student's 95 % interval over repetitions," if n >= MIN_FOR_INTERVAL else ""
    yield (
        f"difference = {first['a']} minus {first['b']}{half} and [95 % bootstrap interval], paired: repetitions"
        f" {', '.join(seeds)}, {first['points']} test points. Shares in per cent, margins in pixels of [0, 1]."
    )
    if n == 1:
        how = "McNemar's exact test for shares, the bootstrap over points for margins"
    else:
        how = "the larger one of the bootstrap over repetitions and points, and of Student's t test over repetitions"
    yield f"p: {how}; Holm's correction over the {tested} columns tested. differs: p < {LEVEL:g}."
    if n == 1:
        yield "One pair of networks: this speaks about these two, not about what other seeds would give."
    shares = rows[rows["p_mcnemar"] != ""]
    if n > 1:
        each = "; ".join(
            f"{_header(row)}: {', '.join(_p(float(p)) for p in row['p_mcnemar'].split())}"
            for _, row in shares.iterrows()
        )
        yield f"McNemar's exact p of each repetition, uncorrected: {each}."
    for _, row in rows[rows["infinite"] > 0].iterrows():
        yield (
            f"{_header(row)}: no attack moved {row['infinite']} of the points, in one row at least. Their margin is"
            " not known, so that the means are not compared; the difference is that of the other points."
        )
