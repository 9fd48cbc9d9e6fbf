"""What figures share: rows that are picked stand out, all others are grey, whatever a reader picks later.

The parameter `picked` of a chart is a list of names of rows; a page may set it. Data have a field `row`. Channels are
written as `alt.Text("row:N")`: of a bare string Altair finds the class by hashing its whole schema.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

IS_PICKED = "indexof(picked, datum.row) >= 0"
NOT_PICKED = "indexof(picked, datum.row) < 0"
DIGITS = 4  # significant, of numbers in a specification
TITLE, SUBTITLE, LINE = 47, 60, 13  # letters in a line that is as wide as a column, and its height in pixels


def layered(layers: Sequence[Any], picked: Sequence[str] | None = None) -> Any:
    """Layers as one chart, with the parameter `picked` if there are rows to pick from.

    In one go, since every step that follows copies all layers.
    """
    import altair as alt

    parameters: Any = alt.Undefined if picked is None else [alt.param("picked", value=list(picked)).param]
    return alt.LayerChart(layer=list(layers), params=parameters)


def row_colour(symbol: str = "stroke", **more: Any) -> Any:
    """A colour for each picked row, with a legend of these rows."""
    import altair as alt

    legend = alt.Legend(title=None, symbolType=symbol, symbolOpacity=1, columns=3, labelLimit=84)
    return alt.Color("row:N", scale=alt.Scale(domain=alt.ExprRef("picked")), legend=legend, **more)


def kinds_of_line(field: str, kinds: Sequence[str], corner: str) -> Any:
    """Solid lines for the first kind and dashed ones for the second, with a legend where there are two.

    Args:
        corner: of the plot, that is free for the legend.
    """
    import altair as alt

    legend: Any = alt.Legend(title=None, symbolType="stroke", orient=corner, offset=0)  # type: ignore[arg-type]
    scale = alt.Scale(domain=list(kinds), range=[[1, 0], [4, 2]][: len(kinds)])
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=legend if len(kinds) > 1 else None)


def inline(values: Iterable[Mapping[str, Any]]) -> Any:
    """Data within the specification, with four significant digits, NaN and infinity as null."""
    import altair as alt

    dealt = ({key: plain(value) for key, value in one.items()} for one in values)
    return alt.InlineData(values=tuple(dealt))  # lists are copied with every chart they are in


def plain(value: Any) -> Any:
    """A value as JSON has it, rounded."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        short = float(f"{value:.{DIGITS}g}")
        if not np.isfinite(short):
            return None
        return int(short) if short.is_integer() else short
    return value


def titled(chart: Any, text: str, subtitle: str = "", height: int = 190) -> Any:
    """Give a chart a title, in lines that fit a column, and the height that its axes and titles fit into."""
    import altair as alt

    head, small = (textwrap.wrap(words, letters) for words, letters in ((text, TITLE), (subtitle, SUBTITLE)))
    title = alt.TitleParams(head, subtitle=small or alt.Undefined)
    told = f"{text}. {subtitle}".strip()  # by screen readers
    tall = height + LINE * (len(head) - 1 + len(small))
    chart.title, chart.description, chart.height = title, told, tall  # properties() copies all layers
    return chart
