"""How rows were tuned: what the trials gave, what mattered, and what was to be had for which clean accuracy."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import (
    IS_PICKED,
    NOT_PICKED,
    inline,
    layered,
    row_colour,
    titled,
)
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.figures.scatter import Quantity, pareto
from marginbench.benchmarks.records.tuning import Trial, Tuning
from marginbench.benchmarks.statistics.level import levels
from marginbench.methods import MarginbenchError

BAR, FRAME = 14, 60  # pixels: of a row, of title and axis
LABELLED = 0.22  # share of a bar from which on its part has room for a name
CLEAN = Quantity("clean accuracy, validation", percent=True)


@figure("tuning")
def tuning_history(source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None) -> Any:
    """The best value so far against the number of trials; trial 0 is the published default.

    The value is that of the objective, on validation images. Points are the trials themselves. Of a Pareto front it is
    the robust accuracy of those that reach the floor.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: tuned rows to highlight. Default: the baseline, and the one that gained most.

    Raises:
        MarginbenchError: no row was tuned.
        ParameterError: no such row.
    """
    rows, tunings = _tuned(source, suite)
    values = [point for tuning in tunings for point in _history(tuning)]
    chosen = _picked(rows, tunings, picked)
    return titled(layered(_steps(values, tunings[0]), chosen), f"{rows.suite}: tuning, trial by trial")


@figure("tuning")
def tuning_importance(source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None) -> Any:
    """Which hyper-parameters mattered: shares of the variance of a row's trials, by fANOVA.

    Of a row that is left out nothing is searched, or all of its trials gave the same. With some twenty trials these are
    rough: they say where to look, and not what is so.

    After Hutter, Hoos and Leyton-Brown, ICML 2014, as optuna has it.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: tuned rows to highlight. Default: the baseline, and the one that gained most.

    Raises:
        MarginbenchError: no row was tuned, or of none it can be said.
        ParameterError: no such row.
    """
    rows, tunings = _tuned(source, suite)
    values = [part for tuning in tunings for part in _importance(tuning)]
    if not values:
        raise MarginbenchError(f"suite {rows.suite}: of no row it is known what mattered: tune with more trials")
    shown = [tuning.name for tuning in tunings if tuning.importance]
    chosen = [name for name in _picked(rows, tunings, picked) if name in shown or picked is not None]
    return titled(
        layered(_bars(values, shown), chosen),
        f"{rows.suite}: what mattered in tuning",
        "Shares of the variance of the trials, by fANOVA.",
        height=BAR * len(shown) + FRAME,
    )


@figure("tuning")
def tuning_front(source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None) -> Any:
    """Clean against robust accuracy of the trials, with each row's Pareto front; rings are what was chosen.

    Both on validation images, the robust accuracy by the attacks of `quick`.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: tuned rows to highlight. Default: the baseline, and the one that gained most.

    Raises:
        MarginbenchError: no row was tuned, or for clean accuracy alone.
        ParameterError: no such row.
    """
    rows, tunings = _tuned(source, suite)
    norm = tunings[0].norm
    values = [point for tuning in tunings for point in _front(tuning)]
    if not values:
        raise MarginbenchError(
            f"suite {rows.suite}: was tuned for clean accuracy alone; `marginbench tune --objective pareto` for both"
        )
    radius = rows.heading(f"robust_accuracy_{norm}").partition("% ")[2]
    robust = Quantity(f"robust accuracy {radius}, validation", percent=True)
    chosen = _picked(rows, tunings, picked)
    floors = sorted({tuning.floor for tuning in tunings if tuning.floor is not None})
    chart = layered(_fronts(values, robust, floors), chosen)
    return titled(chart, f"{rows.suite}: what tuning had to choose from", height=212)


def _tuned(source: Any, suite: str | None) -> tuple[Rows, list[Tuning]]:
    rows = rows_of(source, suite)
    tunings = [runs[0].tuning for runs in rows.runs.values() if runs[0].tuning is not None]
    if not tunings:
        raise MarginbenchError(f"suite {rows.suite}: no row is tuned; see `marginbench tune --help`")
    return rows, tunings


def _picked(rows: Rows, tunings: Sequence[Tuning], names: Sequence[str] | None) -> list[str]:
    """Default: the first row, which is the baseline if that was tuned, and the one that gained most."""
    if names is not None:
        return rows.picked(names)
    gains = levels(_value(tuning, tuning.chosen) - _value(tuning, 0) for tuning in tunings)
    _, best = max(zip(gains, (tuning.name for tuning in tunings), strict=True))
    return list(dict.fromkeys([tunings[0].name, best]))


def _value(tuning: Tuning, number: int) -> float:
    return _worth(tuning.history[number], tuning) or 0.0


def _worth(trial: Trial, tuning: Tuning) -> float | None:
    """What the trial gave for the objective; None where it failed, or is below the floor."""
    if tuning.objective == "validation_accuracy":
        return trial.clean_accuracy
    enough = trial.clean_accuracy is not None and trial.clean_accuracy >= (tuning.floor or 0.0)
    return trial.robust_accuracy if enough else None


def _history(tuning: Tuning) -> Iterator[dict[str, Any]]:
    found = [_worth(trial, tuning) for trial in tuning.history]
    best = itertools.accumulate((-1.0 if value is None else value for value in found), max)
    for trial, value, so_far in zip(tuning.history, found, best, strict=True):
        known = {"best": so_far} if so_far >= 0 else {}
        yield {"row": tuning.name, "trial": trial.number, "setting": trial.setting, "value": value, **known}


def _steps(values: Sequence[dict[str, Any]], tuning: Tuning) -> list[Any]:
    import altair as alt

    what = "validation accuracy" if tuning.objective == "validation_accuracy" else "robust accuracy, validation"
    data = alt.Chart(inline(values))
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("best:Q", title=what, axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False))
    own = alt.Y("value:Q", title=what)
    mine = data.transform_filter(IS_PICKED)
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("trial:Q"),
        alt.Tooltip("setting:N"),
        alt.Tooltip("value:Q", title=what, format=".1%"),
    ]
    known = "isValid(datum.best)"
    return [
        data.transform_filter(NOT_PICKED)
        .transform_filter(known)
        .mark_line(style="other", strokeWidth=0.6, interpolate="step-after")
        .encode(x=x, y=y, detail=alt.Detail("row:N"), tooltip=alt.Tooltip("row:N")),
        mine.transform_filter(known)
        .mark_line(strokeWidth=1.6, interpolate="step-after")
        .encode(x=x, y=y, color=row_colour()),
        mine.transform_filter("isValid(datum.value)")
        .mark_point(filled=True, size=18, opacity=0.8)
        .encode(x=x, y=own, color=row_colour(), tooltip=tooltip),
    ]


def _importance(tuning: Tuning) -> Iterator[dict[str, Any]]:
    """The parts of a bar, the largest first."""
    start = 0.0
    for name, share in sorted(tuning.importance.items(), key=lambda item: (-item[1], item[0])):
        short = name.rpartition(".")[2].replace("_", " ")
        text = {"text": short} if share >= LABELLED else {}
        yield {"row": tuning.name, "name": short, "start": start, "end": start + share, "share": share, **text}
        start += share


def _bars(values: Sequence[dict[str, Any]], shown: Sequence[str]) -> list[Any]:
    import altair as alt

    data = alt.Chart(inline(values))
    x = alt.X("start:Q", title="share of the variance", axis=alt.Axis(format="~%"), scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("row:N", title=None, sort=list(shown))
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("name:N", title="hyper-parameter"),
        alt.Tooltip("share:Q", format=".0%"),
    ]
    half: dict[str, Any] = {"strokeWidth": 1.0, "height": {"band": 0.8}}
    opacity = alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.15, 0.85]), legend=None)
    return [
        data.transform_filter(NOT_PICKED)
        .mark_bar(style="other", **half)
        .encode(x=x, x2=alt.X2("end:Q"), y=y, tooltip=tooltip, fillOpacity=opacity),
        data.transform_filter(IS_PICKED)
        .mark_bar(**half)
        .encode(x=x, x2=alt.X2("end:Q"), y=y, color=row_colour("square"), tooltip=tooltip, fillOpacity=opacity),
        data.transform_filter("isValid(datum.text)")
        .mark_text(style="label", align="left", baseline="middle", dx=3)
        .encode(x=x, y=y, text=alt.Text("text:N")),
    ]


def _front(tuning: Tuning) -> Iterator[dict[str, Any]]:
    points = {
        str(trial.number): (trial.clean_accuracy, trial.robust_accuracy)
        for trial in tuning.history
        if trial.clean_accuracy is not None and trial.robust_accuracy is not None and trial.repeats is None
    }
    on = pareto(points, CLEAN, CLEAN)
    chosen = tuning.history[tuning.chosen]
    for number, (clean, robust) in points.items():
        of = {"row": tuning.name, "clean": clean, "robust": robust, "setting": tuning.history[int(number)].setting}
        best = {"front": True} if number in on else {}
        yield {**of, **best, **({"chosen": True} if of["setting"] == chosen.setting else {})}


def _fronts(values: Sequence[dict[str, Any]], robust: Quantity, floors: Sequence[float]) -> list[Any]:
    import altair as alt

    data = alt.Chart(inline(values))
    x = alt.X("clean:Q", title=CLEAN.title, axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False))
    y = alt.Y("robust:Q", title=robust.title, axis=alt.Axis(format="~%"))
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("setting:N"),
        *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("clean", "robust")),
    ]
    best, mine = data.transform_filter("datum.front"), data.transform_filter(IS_PICKED)
    order = alt.Order("clean:Q")
    layers = [
        best.transform_filter(NOT_PICKED)
        .mark_line(style="other", strokeWidth=0.6, interpolate="step-before")
        .encode(x=x, y=y, detail=alt.Detail("row:N"), order=order, tooltip=alt.Tooltip("row:N")),
        mine.transform_filter("datum.front")
        .mark_line(strokeWidth=1.2, interpolate="step-before")
        .encode(x=x, y=y, color=row_colour(), order=order),
        mine.mark_point(filled=True, size=18, opacity=0.8).encode(x=x, y=y, color=row_colour(), tooltip=tooltip),
        mine.transform_filter("datum.chosen")
        .mark_point(filled=False, size=90, strokeWidth=1.4)
        .encode(x=x, y=y, color=row_colour(), tooltip=tooltip),
    ]
    if floors:
        ruler = alt.Chart(inline([{"floor": floor} for floor in floors]))
        layers.insert(0, ruler.mark_rule(style="ruler").encode(x=alt.X("floor:Q", title=CLEAN.title)))
    return layers
