"""A column of the leaderboard as dots with whiskers: what is known of each row, and which rows cannot be told apart."""

import math
from collections.abc import Sequence
from typing import Any

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import IS_PICKED, NOT_PICKED, inline, picked_parameter, row_colour, titled
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.figures.scatter import Quantity
from marginbench.benchmarks.tables.leaderboard import BASELINE, DEFAULT_SORT
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

ROW_HEIGHT, FRAME_HEIGHT = 14, 74  # pixels: of a row, and of title, legend and axis


@figure()
def intervals(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    column: str = DEFAULT_SORT,
    methods: Sequence[str] | None = None,
) -> Any:
    """Mean and 95 % interval of each row in one column, best first.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by the column.
        column: of the leaderboard.
        methods: the rows to show. Default: all.

    Raises:
        ParameterError: no such column or row.
        MarginbenchError: no row has the column.
    """
    rows = rows_of(source, suite)
    quantity = Quantity.of(rows.column(column), rows.heading(column))
    for name in methods or ():
        if name not in rows.runs:
            raise ParameterError("methods", name, f"no such row: {suggest(name, rows.runs)}")
    shown = _standing(rows, column, methods or list(rows.runs))
    if not shown:
        raise MarginbenchError(f"suite {rows.suite}: no row has the column {column}")
    chosen = [row for row in rows.picked(picked, column) if picked is not None or row in {one["row"] for one in shown}]
    title = f"{rows.suite}: {quantity.title}"
    return titled(_chart(shown, quantity, chosen), title, height=ROW_HEIGHT * len(shown) + FRAME_HEIGHT)


def _standing(rows: Rows, column: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and interval of the rows that have the column, best first."""
    found = []
    for name in names:
        mean, half = rows.table[name].mean(column)
        if math.isfinite(mean):
            whisker = {} if half is None else {"low": mean - half, "high": mean + half}
            found.append({"row": name, "mean": mean, "n": len(rows.runs[name]), **whisker})
    return sorted(found, key=lambda one: one["mean"], reverse=not rows.column(column).ascending)


def _chart(shown: Sequence[dict[str, Any]], quantity: Quantity, picked: Sequence[str]) -> Any:
    import altair as alt

    data = alt.Chart(inline(shown))
    order = [one["row"] for one in shown]
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=110))
    axis = alt.Axis(format=quantity.ticks)
    x = alt.X("mean:Q", title=quantity.title, scale=alt.Scale(zero=False, nice=False, padding=6), axis=axis)
    tooltip = [
        "row:N",
        alt.Tooltip("mean:Q", title="mean", format=quantity.format),
        alt.Tooltip("low:Q", title="95 %, from", format=quantity.format),
        alt.Tooltip("high:Q", title="95 %, to", format=quantity.format),
        alt.Tooltip("n:Q", title="networks"),
    ]
    colour = row_colour("circle")
    dots: dict[str, Any] = {"x": x, "y": y, "tooltip": tooltip}
    ends: dict[str, Any] = {"x": alt.X("low:Q", title=quantity.title), "x2": "high:Q", "y": y}
    others, mine = data.transform_filter(NOT_PICKED), data.transform_filter(IS_PICKED)
    known = "isValid(datum.low)"
    layers = [
        data.transform_filter(alt.FieldEqualPredicate(field="row", equal=BASELINE))
        .mark_rule(style="ruler")
        .encode(x=x),
        others.transform_filter(known).mark_rule(style="soft", strokeWidth=1.2).encode(**ends),
        others.mark_point(style="soft", filled=True, size=22, opacity=1).encode(**dots),
        mine.transform_filter(known).mark_rule(strokeWidth=2.2).encode(**ends, color=colour),
        mine.mark_point(filled=True, size=40, opacity=1).encode(**dots, color=colour),
    ]
    return alt.layer(*layers).add_params(picked_parameter(picked))
