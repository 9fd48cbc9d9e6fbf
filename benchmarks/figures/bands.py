"""Curves on a grid, between which something unknown lies: the band between them is shaded.

All rows have the grid in common, so that each number stands in the specification once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marginbench.benchmarks.figures.layers import (
    IS_PICKED,
    NOT_PICKED,
    inline,
    kinds_of_line,
    layered,
    row_colour,
)

POINTS = 60  # of a curve


@dataclass(frozen=True)
class Grid:
    """Places from `start`, `step` apart."""

    start: float
    step: float
    count: int

    @property
    def values(self) -> np.ndarray:
        """[count] float64."""
        return self.start + self.step * np.arange(self.count)


def grid_to(limit: float, through: float) -> Grid:
    """At most 60 places from 0 to about `limit`, one of which is `through`."""
    step = max(limit, through) / (POINTS - 1)
    step = through / max(int(np.floor(through / step)), 1)
    return Grid(0.0, step, min(int(np.ceil(limit / step)) + 1, POINTS))


@dataclass(frozen=True)
class Axes:
    """What the axes of bands say."""

    x: str
    y: str
    upper: str  # name of the solid curve, in legend and tooltip
    lower: str | None = None  # of the dashed one, if there are two
    corner: str = "top-right"  # that is free for the legend


def bands(
    curves: Mapping[str, Mapping[str, np.ndarray | None]],
    grid: Grid,
    axes: Axes,
    picked: Sequence[str],
    mark: float | None,
) -> Any:
    """Curves of all rows: picked ones with their band, the others grey.

    Args:
        curves: by row, `upper` and `lower` [count] in [0, 1]; None where there is none.
        mark: a radius on the x axis to be marked, or the boundary at 0.
    """
    import altair as alt

    kinds = [name for name in (axes.upper, axes.lower) if name is not None]
    values: list[dict[str, Any]] = [
        {"row": row, **{key: [] if curve is None else curve for key, curve in ends.items()}}
        for row, ends in curves.items()
    ]
    whole = (
        alt.Chart(inline(values))
        .transform_calculate(i="sequence(length(datum.upper))")
        .transform_flatten(["i", "upper", *(["lower"] if axes.lower else [])])
        .transform_calculate(x=f"{grid.start:.6g} + datum.i * {grid.step:.8g}")
    )
    x = alt.X("x:Q", title=axes.x, scale=alt.Scale(nice=False, zero=False))
    y = alt.Y("upper:Q", title=axes.y, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    colour = row_colour()
    dash = kinds_of_line("kind", kinds, axes.corner)
    mine = whole.transform_filter(IS_PICKED)
    layers = [
        whole.transform_filter(NOT_PICKED)
        .mark_line(style="other", strokeWidth=0.6, opacity=0.7)
        .encode(x=x, y=y, detail=alt.Detail("row:N"), tooltip=alt.Tooltip("row:N"))
    ]
    if axes.lower is not None:
        known = mine.transform_filter("isValid(datum.lower)").transform_calculate(kind=f"'{axes.lower}'")
        layers.append(known.mark_area(opacity=0.18).encode(x=x, y=y, y2=alt.Y2("lower:Q"), color=colour))
        lower = known.mark_line(strokeWidth=1.4)
        layers.append(lower.encode(x=x, y=alt.Y("lower:Q", title=axes.y), color=colour, strokeDash=dash))
    upper = mine.transform_calculate(kind=f"'{axes.upper}'").mark_line(strokeWidth=1.6)
    layers.append(upper.encode(x=x, y=y, color=colour, strokeDash=dash))
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("x:Q", title=axes.x, format=".3~g"),
        alt.Tooltip("upper:Q", title=axes.upper, format=".1%"),
        *([alt.Tooltip("lower:Q", title=axes.lower, format=".1%")] if axes.lower else []),
    ]
    layers.append(mine.mark_point(opacity=0, size=40, filled=True).encode(x=x, y=y, color=colour, tooltip=tooltip))
    if mark is not None:
        ruler = alt.Chart(inline([{"x": mark, "text": f"ε = {mark:g}" if mark else ""}]))
        layers.append(ruler.mark_rule(style="ruler").encode(x=alt.X("x:Q")))
        layers.append(
            ruler.mark_text(style="soft_label", align="left", baseline="top", dx=3, y=2).encode(
                x=alt.X("x:Q"), text=alt.Text("text:N")
            )
        )
    return layered(layers, picked)
