"""What predicts what: a measure in each line, a target in each column, rank correlation as colour."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marginbench.benchmarks.figures.layers import inline, layered, titled

FRAME_HEIGHT, CELL_HEIGHT = 62, 32  # pixels
SHORTER = (("generalisation ", ""), ("certified", "cert."), ("accuracy", "acc."))  # in a column of a paper
INTERVAL = 62  # pixels: the width of a cell into which an interval fits as text
REACH, BELOW = 0.46, 11  # of a bar: 1 as a share of the cell's width, and pixels under the middle of the cell
NARROW = "width < 320"
SMALL, PALE = 9, 0.15  # font of intervals, and opacity of what is not to stand out


def heat_map(cells: Sequence[Mapping[str, Any]], title: str, subtitle: str = "") -> Any:
    """Kendall's tau of each pair of measure and target, with its interval as a bar below.

    The bar is on a scale from -1 at the left of its cell to 1 at the right, with a tick at 0. Where cells are wide
    enough the interval is there as text, too.

    Args:
        cells: `measure`, `target`, `tau` in [-1, 1], `low`, `high` (None or NaN where there is no interval), and
            `pale` where a cell is not to stand out, `sure` where its text is bold (default: the interval leaves out 0).
            Lines and columns keep their order.
    """
    import altair as alt

    measures, targets = (list(dict.fromkeys(str(cell[key]) for cell in cells)) for key in ("measure", "target"))
    values = [{"pale": False, "sure": _sure(cell), **cell, "interval": _interval(cell)} for cell in cells]
    fits = f"width > {INTERVAL * len(targets)}"
    known = alt.Chart(inline(values)).transform_filter("isValid(datum.tau)")
    bare: dict[str, Any] = {"domain": False, "ticks": False}
    under = alt.Axis(**bare, labelAngle=0, labelLimit=70, labelExpr=_in_lines())
    beside = alt.Axis(**bare, labelOffset=alt.ExprRef(f"{NARROW} ? -4 : 0"), labelExpr=_in_two())
    at: dict[str, Any] = {
        "x": alt.X("target:N", title=None, sort=targets, axis=under),
        "y": alt.Y("measure:N", title=None, sort=measures, axis=beside),
    }
    tooltip = [
        alt.Tooltip("measure:N"),
        alt.Tooltip("target:N"),
        *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("tau", "low", "high")),
    ]
    scale = alt.Scale(domain=[-1, 1], domainMid=0, range="diverging", interpolate="rgb")
    tau = alt.Text("tau:Q", format="+.2f")
    above = alt.ExprRef(f"{fits} ? -9 : -4")
    rect = known.mark_rect().encode(**at, color=alt.Color("tau:Q", scale=scale, legend=None), tooltip=tooltip)
    sure, other = "datum.sure && !datum.pale", "!datum.sure && !datum.pale"
    small: dict[str, Any] = {
        "style": "soft_label",
        "fontSize": SMALL,
        "dy": 1,
        "opacity": alt.ExprRef(f"{fits} ? 1 : 0"),
    }
    layers = [
        rect.transform_filter("!datum.pale"),
        rect.transform_filter("datum.pale").mark_rect(opacity=PALE),
        known.transform_filter(sure).mark_text(style="label", fontWeight="bold", dy=above).encode(**at, text=tau),
        known.transform_filter(other).mark_text(style="label", dy=above).encode(**at, text=tau),
        known.transform_filter("datum.pale").mark_text(style="soft_label", dy=above).encode(**at, text=tau),
        known.mark_text(**small).encode(**at, text=alt.Text("interval:N")),
        *_bars(known.transform_filter("isValid(datum.low) && isValid(datum.high)"), at, len(targets)),
    ]
    return titled(layered(layers), title, subtitle, height=FRAME_HEIGHT + CELL_HEIGHT * len(measures))


def _bars(known: Any, at: Mapping[str, Any], columns: int) -> list[Any]:
    """Each interval, and a tick at 0, in its cell."""
    import altair as alt

    unit = f"{REACH} * width / {columns}"
    ends = {"xOffset": alt.ExprRef(f"datum.low * {unit}"), "x2Offset": alt.ExprRef(f"datum.high * {unit}")}
    return [
        known.mark_tick(style="soft", thickness=1, size=7, orient="vertical", yOffset=BELOW).encode(**at),
        known.mark_rule(style="ink", strokeWidth=2.5, yOffset=BELOW, **ends).encode(**at, x2=alt.X2("target:N")),
    ]


def _in_lines() -> str:
    """A word a line, and fewer letters where columns are narrow."""
    short = "datum.label"
    for word, shorter in SHORTER:
        short = f"replace({short}, '{word}', '{shorter}')"
    return f"split({NARROW} ? {short} : datum.label, ' ')"


def _in_two() -> str:
    """What is in brackets below the rest, where the figure is narrow."""
    return f"{NARROW} ? split(replace(datum.label, ' (', '|('), '|') : datum.label"


def _sure(cell: Mapping[str, Any]) -> bool:
    low, high = cell.get("low"), cell.get("high")
    return low is not None and high is not None and (low > 0 or high < 0)


def _interval(cell: Mapping[str, Any]) -> str | None:
    low, high = cell.get("low"), cell.get("high")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    return f"{low:.2f} to {high:.2f}".replace("-", "−")
