"""What predicts what: a measure in each line, a target in each column, rank correlation as colour."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marginbench.benchmarks.figures.layers import inline, titled

FRAME_HEIGHT, CELL_HEIGHT = 62, 25  # pixels
DETAILED = 5  # columns, beside which intervals fit into the cells of a column


def heat_map(cells: Sequence[Mapping[str, Any]], title: str, subtitle: str = "") -> Any:
    """Kendall's tau of each pair of measure and target, with its interval below; bold where that leaves out 0.

    Args:
        cells: `measure`, `target`, `tau` in [-1, 1], `low`, `high` (None or NaN where there is no interval). Lines and
            columns keep their order.
    """
    import altair as alt

    measures, targets = (list(dict.fromkeys(str(cell[key]) for cell in cells)) for key in ("measure", "target"))
    detailed = len(targets) <= DETAILED
    values = [{**cell, "sure": _sure(cell), "interval": _interval(cell) if detailed else None} for cell in cells]
    known = alt.Chart(inline(values)).transform_filter("isValid(datum.tau)")
    bare = {"domain": False, "ticks": False}
    under = alt.Axis(**bare, labelAngle=0, labelLimit=70, labelExpr="split(datum.label, ' ')")
    at = {
        "x": alt.X("target:N", title=None, sort=targets, axis=under),
        "y": alt.Y("measure:N", title=None, sort=measures, axis=alt.Axis(**bare)),
    }
    tooltip = ["measure:N", "target:N", *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("tau", "low", "high"))]
    scale = alt.Scale(domain=[-1, 1], domainMid=0, range="diverging", interpolate="rgb")
    tau = alt.Text("tau:Q", format="+.2f")
    above = -4 if detailed else 0
    chart = alt.layer(
        known.mark_rect().encode(**at, color=alt.Color("tau:Q", scale=scale, legend=None), tooltip=tooltip),
        known.transform_filter("datum.sure")
        .mark_text(style="label", fontWeight="bold", dy=above)
        .encode(**at, text=tau),
        known.transform_filter("!datum.sure").mark_text(style="label", dy=above).encode(**at, text=tau),
        known.mark_text(style="label", fontSize=7.5, dy=6).encode(**at, text="interval:N"),
    )
    return titled(chart, title, subtitle, height=FRAME_HEIGHT + CELL_HEIGHT * len(measures))


def _sure(cell: Mapping[str, Any]) -> bool:
    low, high = cell.get("low"), cell.get("high")
    return low is not None and high is not None and (low > 0 or high < 0)


def _interval(cell: Mapping[str, Any]) -> str | None:
    low, high = cell.get("low"), cell.get("high")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    return f"{low:.2f} to {high:.2f}".replace("-", "−")
