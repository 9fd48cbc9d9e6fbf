"""One column against another, a point for each row, with the rows that no other row beats in both."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.figures.layers import IS_PICKED, NOT_PICKED, inline, layered, row_colour
from marginbench.benchmarks.figures.rows import Interval
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.statistics import fronts

LETTER, LINE = 0.024, 0.075  # size of a letter and of a line of text, as a share of a figure in a column
ROOM = 0.5  # share of the width of all means that is added at most, so that names fit


@dataclass(frozen=True)
class Quantity:
    """A number of a row as an axis shows it."""

    title: str
    ascending: bool = False  # small is good
    percent: bool = False
    logarithmic: bool = False

    @classmethod
    def of(cls, column: Column, heading: str, logarithmic: bool = False) -> "Quantity":
        percent = column.factor == 100
        title = heading.replace(" %", " accuracy" if "accuracy" in column.name else "") if percent else heading
        title += ", pixels" if "pixels" in column.meaning else ""
        return cls(title, column.ascending, percent, logarithmic)

    @property
    def format(self) -> str:
        return ".1%" if self.percent else ".3~g"

    @property
    def ticks(self) -> str:
        return "~%" if self.percent else ".3~g"


def pareto(points: Mapping[str, tuple[float, float]], x: Quantity, y: Quantity) -> list[str]:
    """The names that no other beats in one quantity without losing in the other, from small to large x."""
    signs = [-1 if quantity.ascending else 1 for quantity in (x, y)]
    on = fronts.front([(signs[0] * px, signs[1] * py) for px, py in points.values()])
    return sorted(itertools.compress(points, on), key=lambda name: points[name])


def scatter(
    points: Mapping[str, tuple[Interval, Interval]],
    x: Quantity,
    y: Quantity,
    picked: Sequence[str],
    front: Sequence[str],
) -> Any:
    """Points of all rows with the Pareto front; picked ones in colour, with their 95 % intervals.

    Axes span the means: an interval that reaches beyond is cut; one that is narrower than its point cannot be seen.

    Args:
        points: by row, the intervals of both quantities.
        front: names of the rows on the front.
    """
    import altair as alt

    means = {row: (of_x[0], of_y[0]) for row, (of_x, of_y) in points.items()}
    domains = [_domain([at[side] for at in means.values()], quantity) for side, quantity in enumerate((x, y))]
    domains[0] = _with_room({row: means[row][0] for row in front}, domains[0], x)
    named = readable(means, front, domains, (x, y))
    values = [
        {
            "row": row,
            **dict(zip(("x", "x1", "x2"), _within(at[0], domains[0]), strict=True)),
            **dict(zip(("y", "y1", "y2"), _within(at[1], domains[1]), strict=True)),
            **({"front": True} if row in front else {}),
            **({"name": row, "left": named[row]} if row in named else {}),
        }
        for row, at in points.items()
    ]
    data = alt.Chart(inline(values))
    at_x = alt.X("x:Q", title=x.title, scale=_scale(domains[0], x), axis=_axis(x))
    at_y = alt.Y("y:Q", title=y.title, scale=_scale(domains[1], y), axis=_axis(y))
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("x:Q", title=x.title, format=x.format),
        alt.Tooltip("y:Q", title=y.title, format=y.format),
    ]
    best, mine = data.transform_filter("datum.front"), data.transform_filter(IS_PICKED)
    colour = row_colour("circle")
    names = best.transform_filter("isValid(datum.name)").encode(x=at_x, y=at_y, text=alt.Text("name:N"))
    layers = [
        best.mark_line(style="ruler", interpolate="step-after" if x.ascending else "step-before").encode(
            x=at_x, y=at_y, order=alt.Order("x:Q")
        ),
        *(
            names.transform_filter("datum.left" if left else "!datum.left").mark_text(
                style=style, baseline="bottom", dy=-2, align="right" if left else "left", dx=-4 if left else 4
            )
            for style in ("halo", "soft_label")
            for left in (True, False)
        ),
        data.transform_filter(NOT_PICKED)
        .mark_point(style="other", size=16, filled=True, opacity=0.9)
        .encode(x=at_x, y=at_y, tooltip=tooltip),
        mine.transform_filter("isValid(datum.x1)")
        .mark_rule(strokeWidth=1.8)
        .encode(x=alt.X("x1:Q", title=x.title), x2=alt.X2("x2:Q"), y=at_y, color=colour),
        mine.transform_filter("isValid(datum.y1)")
        .mark_rule(strokeWidth=1.8)
        .encode(x=at_x, y=alt.Y("y1:Q", title=y.title), y2=alt.Y2("y2:Q"), color=colour),
        best.mark_point(style="ink", size=30, strokeWidth=0.8, filled=False).encode(x=at_x, y=at_y, tooltip=tooltip),
        mine.mark_point(size=30, filled=True, opacity=1).encode(x=at_x, y=at_y, color=colour, tooltip=tooltip),
    ]
    return layered(layers, picked)


def _scale(domain: tuple[float, float], quantity: Quantity) -> Any:
    import altair as alt

    if quantity.logarithmic:  # which has no zero
        return alt.Scale(type="log", nice=False, domain=list(domain))
    return alt.Scale(zero=False, nice=False, domain=list(domain))


def _axis(quantity: Quantity) -> Any:
    import altair as alt

    return alt.Axis(format=quantity.ticks, tickCount=5, labelOverlap=True)


def _place(value: float, quantity: Quantity) -> float:
    return math.log(value) if quantity.logarithmic else value


def _domain(means: Sequence[float], quantity: Quantity) -> tuple[float, float]:
    """A little more than all means span."""
    low, high = (_place(end(means), quantity) for end in (min, max))
    room = 0.06 * (high - low) or 0.05
    ends = low - room, high + room
    return (math.exp(ends[0]), math.exp(ends[1])) if quantity.logarithmic else ends


def _within(interval: Interval, domain: tuple[float, float]) -> Interval:
    mean, low, high = interval
    if math.isnan(low):
        return interval
    return mean, max(low, domain[0]), min(high, domain[1])


def _share(value: float, domain: tuple[float, float], quantity: Quantity) -> float:
    """Where a value is on its axis: 0 at the start, 1 at the end."""
    low, high = (_place(end, quantity) for end in domain)
    return (_place(value, quantity) - low) / (high - low)


def _with_room(front: Mapping[str, float], domain: tuple[float, float], x: Quantity) -> tuple[float, float]:
    """The axis with room for names on the side of the front where no point is: left where small is good."""
    needed = [0.0]
    for row, value in front.items():
        before = _share(value, domain, x) if x.ascending else 1 - _share(value, domain, x)
        length = LETTER * (len(row) + 1)
        more = (length - before) / (1 - length) + 1e-9 if length < 1 else math.inf
        needed += [more] if more <= ROOM else []
    low, high = (_place(end, x) for end in domain)
    more = max(needed) * (high - low)
    ends = (low - more, high) if x.ascending else (low, high + more)
    return (math.exp(ends[0]), math.exp(ends[1])) if x.logarithmic else ends


def readable(
    points: Mapping[str, tuple[float, float]],
    front: Sequence[str],
    domains: Sequence[tuple[float, float]],
    axes: tuple[Quantity, Quantity],
) -> dict[str, bool]:
    """The names of the front that fit at the width of a column, and cover neither each other nor a point: to the left?

    A name stands above its point, on the side of the front where no point is if there is room, else on the other one.
    """
    places = {row: tuple(_share(at[side], domains[side], axes[side]) for side in (0, 1)) for row, at in points.items()}
    boxes: list[tuple[float, float, float]] = []  # left end, length and lower edge
    sides: dict[str, bool] = {}
    for row in front:
        right, top = places[row]
        length = LETTER * (len(row) + 1)
        others = [place for other, place in places.items() if other != row]
        for to_left in (axes[0].ascending, not axes[0].ascending):
            left = right - length if to_left else right
            inside = left >= 0 and left + length <= 1
            clear = all(not (left <= px <= left + length and top - LETTER <= py <= top + LINE) for px, py in others)
            alone = all(left + length < x or x + size < left or abs(top - y) > LINE for x, size, y in boxes)
            if inside and clear and alone:
                boxes.append((left, length, top))
                sides[row] = to_left
                break
    return sides
