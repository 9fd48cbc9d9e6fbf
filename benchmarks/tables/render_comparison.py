"""The comparison of two rows as Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.statistics.paired import LEVEL, MIN_FOR_INTERVAL
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.cells import Side
from marginbench.benchmarks.tables.notes import asked_once
from marginbench.benchmarks.tables.text import pipe
from marginbench.methods import NORMS

if TYPE_CHECKING:
    import pandas as pd

SIDES: tuple[Side, ...] = ("left", "right", "right", "right", "right", "left")
Line = Mapping[str, Any]  # of the table of `compare_rows`

_COLUMNS = {column.name: column for column in columns.measured()}


def render_comparison(table: "pd.DataFrame") -> str:
    """Markdown: a table for each suite, and how to read it."""
    lines: list[Any] = table.to_dict("records")
    suites: dict[str, list[Line]] = {}
    for line in lines:
        suites.setdefault(line["suite_fingerprint"], []).append(line)
    return "\n".join(map(_page, suites.values()))


def _page(lines: Sequence[Line]) -> str:
    first = lines[0]
    header = ("column", first["a"], first["b"], "difference", "p (Holm)", "verdict")
    text = pipe(header, [_cells(line) for line in lines], SIDES)
    notes = "\n".join(f"- {note}" for note in _notes(lines))
    return f"## {first['suite']}: {first['title']}\n\n{text}\n\n{notes}\n"


def _cells(line: Line) -> tuple[str, ...]:
    column = _column(line)
    means = (column.text(line[name]) for name in ("mean_a", "mean_b"))
    return _heading(line), *means, _difference(line, column), _p(line["p_holm"]), line["verdict"]


def _column(line: Line) -> Column:
    return _COLUMNS[line["column"]]


def _heading(line: Line) -> str:
    return _column(line).heading({norm: line[f"epsilon_{norm}"] for norm in NORMS})


def _difference(line: Line, column: Column) -> str:
    if math.isnan(line["difference"]):
        return "—"
    middle, low, high = (column.signed(line[name]) for name in ("difference", "low", "high"))
    return f"{middle}{column.plus_minus(line['student_half'])} [{low}, {high}]"


def _p(p: float) -> str:
    if math.isnan(p):
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    first = lines[0]
    seeds = first["repetitions"].split()
    n, tested = len(seeds), sum(not math.isnan(line["p"]) for line in lines)
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
    else:
        shares = [line for line in lines if line["p_mcnemar"]]
        each = "; ".join(
            f"{_heading(line)}: {', '.join(_p(float(p)) for p in line['p_mcnemar'].split())}" for line in shares
        )
        yield f"McNemar's exact p of each repetition, uncorrected: {each}."
    if first["at_epsilon"]:
        yield asked_once(first["at_epsilon"].split())
    for line in lines:
        if line["infinite"]:
            yield (
                f"{_heading(line)}: no attack moved {line['infinite']} of the points, in one row at least. Their"
                " margin is not known, so that the means are not compared; the difference is that of the other points."
            )
