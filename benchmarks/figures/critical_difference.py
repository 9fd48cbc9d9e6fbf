"""The critical-difference diagram: average ranks on a line, with bars over rows that cannot be told apart.

After Demšar, JMLR 7, 2006, section 3.2.4.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import inline, layered, row_colour, titled
from marginbench.benchmarks.figures.rows import records_of
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.across import across
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

ROW, BAR, FRAME_HEIGHT = 14, 6, 68  # pixels: of a name, of a bar, of title and axis
LETTER = 0.021  # width of a letter, as a share of a figure in a column


def diagram(
    ranks: Mapping[str, float], cliques: Sequence[Sequence[str]], picked: Sequence[str], title: str, subtitle: str = ""
) -> Any:
    """Average ranks (1 is the best) on an axis; the better half of the names on the left, the worse on the right.

    Args:
        ranks: of each row, averaged over blocks.
        cliques: rows that cannot be told apart; each becomes a bar from its best to its worst rank. Those of one row
            have none.
    """
    import altair as alt

    order = sorted(ranks, key=lambda row: (ranks[row], row))
    half = -(-len(order) // 2)
    bars = sorted(
        (min(own), max(own)) for own in ([ranks[row] for row in clique] for clique in cliques) if len(own) > 1
    )
    top = BAR * (len(bars) + 1)
    worst = max(len(order), 2)
    side = min(LETTER * max(map(len, order)), 0.36)  # of the width, for names
    room = side / (1 - 2 * side) * (worst - 1)
    edges = 1 - room, worst + room
    lines = []
    for i, row in enumerate(order):
        left = i < half
        down = top + ROW * (i if left else len(order) - 1 - i) + ROW
        at = {"row": row, "rank": ranks[row], "y": down, "end": edges[0] if left else edges[1], "left": left}
        lines.append({**at, "top": 0})
    height = top + ROW * (half + 1)
    y_scale = alt.Scale(domain=[height, 0], nice=False, zero=False)
    x = alt.X(
        "rank:Q",
        title="average rank",
        scale=alt.Scale(domain=list(edges), nice=False),
        axis=alt.Axis(orient="top", values=_ticks(worst), grid=False, format="d"),
    )
    y = alt.Y("y:Q", axis=None, scale=y_scale)
    data = alt.Chart(inline(lines))
    tooltip = [alt.Tooltip("row:N"), alt.Tooltip("rank:Q", title="average rank", format=".2f")]
    style: dict[str, Any] = {"style": "soft", "strokeWidth": 0.8}
    sides = [
        data.transform_filter("datum.left" if left else "!datum.left")
        .mark_text(style="label", align="left" if left else "right", baseline="bottom", dy=-1)
        .encode(x=alt.X("end:Q"), y=y, text=alt.Text("row:N"), tooltip=tooltip)
        for left in (True, False)
    ]
    clique_bars = alt.Chart(
        inline({"low": low, "high": high, "y": BAR * (i + 1)} for i, (low, high) in enumerate(bars))
    )
    dots = data.mark_point(filled=True, size=26, opacity=1).encode(
        x=x, y=alt.Y("top:Q", axis=None, scale=y_scale), color=row_colour("circle"), tooltip=tooltip
    )
    layers = [
        data.mark_rule(**style).encode(x=x, y=alt.Y("top:Q", axis=None, scale=y_scale), y2=alt.Y2("y:Q")),
        data.mark_rule(**style).encode(x=x, x2=alt.X2("end:Q"), y=y),
        clique_bars.mark_rule(style="ink", strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y),
        dots.transform_filter("indexof(picked, datum.row) >= 0"),
        *sides,
    ]
    return titled(layered(layers, picked), title, subtitle, height=height + FRAME_HEIGHT)


def _ticks(worst: int) -> list[int]:
    step = max(1, worst // 8)
    return [1, *range(step if step > 1 else 2, worst + 1, step)]


@figure("suites")
def critical_difference(source: Any, *, column: str = DEFAULT_SORT, picked: Sequence[str] | None = None) -> Any:
    """Average ranks of rows across suites, with bars over rows that cannot be told apart.

    Every suite ranks the rows by their means over seeds; bars are those of Wilcoxon's test with Holm's correction, see
    `statistics.blocks`. The subtitle says how many suites it takes before anything can be told apart, and which tell
    less than their number.

    Args:
        source: see `rows_of`, with two suites or more. Rows that one of them lacks are left out.
        column: of the leaderboard.
        picked: rows to highlight. Default: the baseline.

    Raises:
        ParameterError: no such column, or no such row in all suites.
        MarginbenchError: fewer than two suites, each with networks of its own, share two rows.
    """
    reading = records_of(source)
    known = {one.name: one for one in columns.measured(columns.of_probes(reading.records.values()))}
    if column not in known:
        raise ParameterError("column", column, f"no such column: {suggest(column, known)}")
    found = across(reading.records.values(), column)
    if found is None:
        raise MarginbenchError(
            f"{column}: ranks across suites take two suites or more that share two rows; evaluations of the same"
            " networks are one suite: train another"
        )
    for name in picked or ():
        if name not in found.rows:
            raise ParameterError("picked", name, f"no such row in all suites: {suggest(name, found.rows)}")
    what = known[column].header.replace(" %", " accuracy" if "accuracy" in column else "").partition("{")[0].strip()
    chosen = [row for row in (BASELINE,) if row in found.rows] if picked is None else list(picked)
    title = f"{what} across {len(found.suites)} suites"
    return diagram(found.average_ranks, found.cliques, chosen, title, " ".join([found.ranking.power, *found.cautions]))
