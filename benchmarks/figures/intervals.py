"""A column of the leaderboard as dots with error bars: what is known of each row, and which rows may be equal."""

import math
from collections.abc import Sequence
from typing import Any

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import IS_PICKED, NOT_PICKED, inline, layered, row_colour, titled
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.figures.scatter import Quantity
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.standing import Standing
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

ROW_HEIGHT, FRAME_HEIGHT = 14, 74  # pixels: of a row, and of title, legend and axis

LETTERS = "Rows that share a letter cannot be told apart."
LETTER = 0.024  # width of a letter, as a share of a figure in a column


@figure()
def intervals(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    column: str | None = None,
    methods: Sequence[str] | None = None,
) -> Any:
    """Mean and 95 % interval of each row in one column, with the letters of rows that cannot be told apart.

    Rows that share a letter cannot be told apart; the best group comes first, rows inside a group by name, then those
    that cannot be compared by their means.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by the column.
        column: of the leaderboard. Default: the one that orders it.
        methods: the rows to show. Default: all.

    Raises:
        ParameterError: no such column or row, or no row has the column.
        MarginbenchError: none of the rows to show has it.
    """
    rows = rows_of(source, suite)
    column = column or rows.usual
    quantity = Quantity.of(rows.measured(column), rows.heading(column))
    for name in methods or ():
        if name not in rows.runs:
            raise ParameterError("methods", name, f"no such row: {suggest(name, rows.runs)}")
    shown = _standing(rows, column, methods or list(rows.runs))
    if not shown:
        raise MarginbenchError(f"suite {rows.suite}: none of {', '.join(methods or rows.runs)} has the column {column}")
    chosen = [row for row in rows.picked(picked, column) if picked is not None or row in {one["row"] for one in shown}]
    title = f"{rows.suite}: {quantity.title}"
    subtitle = LETTERS if any("letters" in one for one in shown) else ""
    return titled(_chart(shown, quantity, chosen), title, subtitle, height=ROW_HEIGHT * len(shown) + FRAME_HEIGHT)


def _standing(rows: Rows, column: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of the rows that have the column, in the order of the tables."""
    found = []
    for name in names:
        mean, low, high = rows.interval(name, column)
        if math.isfinite(mean):
            own = {"row": name, "mean": mean, "low": low, "high": high, "n": len(rows.runs[name])}
            found.append({**own, **_among(rows.standing(column).get(name))})
    sign = 1 if rows.column(column).ascending else -1

    means = dict(zip((one["row"] for one in found), levels(sign * one["mean"] for one in found), strict=True))

    def place(one: dict[str, Any]) -> tuple[Any, ...]:
        return (0, one["group"], one["row"]) if one.get("group") else (1, means[one["row"]], one["row"])

    return sorted(found, key=place)


def _among(standing: Standing | None) -> dict[str, Any]:
    """Group, letters and ranks, where they are known."""
    if standing is None or not standing.group:
        return {}
    ranks = f"{standing.best_rank} to {standing.worst_rank}"
    return {"group": standing.group, "letters": standing.letters, "ranks": ranks, "difference": standing.difference}


def _chart(shown: Sequence[dict[str, Any]], quantity: Quantity, picked: Sequence[str]) -> Any:
    import altair as alt

    data = alt.Chart(inline(shown))
    order = [one["row"] for one in shown]
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=110))
    axis = alt.Axis(format=quantity.ticks)
    lettered = any("letters" in one for one in shown)
    x = alt.X("mean:Q", title=quantity.title, scale=alt.Scale(domain=_domain(shown, lettered), nice=False), axis=axis)
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("mean:Q", title="mean", format=quantity.format),
        alt.Tooltip("low:Q", title="95 %, from", format=quantity.format),
        alt.Tooltip("high:Q", title="95 %, to", format=quantity.format),
        alt.Tooltip("n:Q", title="networks"),
    ]
    if lettered:
        tooltip += [alt.Tooltip("letters:N"), alt.Tooltip("ranks:N", title="rank, 95 %")]
        tooltip.append(alt.Tooltip("difference:Q", title=f"minus {BASELINE}", format=f"+{quantity.format}"))
    colour = row_colour("circle")
    dots: dict[str, Any] = {"x": x, "y": y, "tooltip": tooltip}
    ends: dict[str, Any] = {"x": alt.X("low:Q", title=quantity.title), "x2": alt.X2("high:Q"), "y": y}
    cap = {"x": alt.X("cap:Q", title=quantity.title), "y": y}
    others, mine = data.transform_filter(NOT_PICKED), data.transform_filter(IS_PICKED)
    other_bars, my_bars = (rows.transform_filter("isValid(datum.low)") for rows in (others, mine))
    # caps are higher than the dot, which may hide the bar
    other_caps, my_caps = (bars.transform_fold(["low", "high"], as_=["side", "cap"]) for bars in (other_bars, my_bars))
    layers = [
        data.transform_filter(alt.FieldEqualPredicate(field="row", equal=BASELINE))
        .mark_rule(style="ruler")
        .encode(x=x),
        other_bars.mark_rule(style="soft", strokeWidth=1.2).encode(**ends),
        other_caps.mark_tick(style="soft", size=8, thickness=1, opacity=1).encode(**cap),
        others.mark_point(style="soft", filled=True, size=22, opacity=1).encode(**dots),
        my_bars.mark_rule(strokeWidth=2.2).encode(**ends, color=colour),
        my_caps.mark_tick(size=11, thickness=1.6, opacity=1).encode(**cap, color=colour),
        mine.mark_point(filled=True, size=40, opacity=1).encode(**dots, color=colour),
    ]
    if lettered:
        end = alt.X("end:Q", title=quantity.title)
        text = data.transform_calculate(end="isValid(datum.high) ? datum.high : datum.mean")
        layers.append(
            text.mark_text(style="soft_label", align="left", dx=5).encode(x=end, y=y, text=alt.Text("letters:N"))
        )
    return layered(layers, picked)


def _domain(shown: Sequence[dict[str, Any]], lettered: bool) -> list[float]:
    """All intervals, and room for letters at their right."""
    ends = [end for one in shown for end in (one["mean"], one["low"], one["high"]) if math.isfinite(end)]
    room = (max(ends) - min(ends)) or 1.0
    longest = max((len(one.get("letters", "")) for one in shown), default=0)
    right = 0.02 + (LETTER * (longest + 1) if lettered else 0)
    return [min(ends) - 0.02 * room, max(ends) + right * room]
