"""A column against a hyper-parameter: of a suite, such as weight decay, or of a method, such as its rate of dropout."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import (
    IS_PICKED,
    NOT_PICKED,
    inline,
    kinds_of_line,
    layered,
    row_colour,
    titled,
)
from marginbench.benchmarks.figures.rows import Rows, suites_of
from marginbench.benchmarks.figures.scatter import Quantity
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.record import dotted
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

NAMES = ("name", "title")  # of a suite: they follow from the settings
ALONE = "train_accuracy"  # drawn dashed below accuracies on other images


@dataclass(frozen=True)
class Variant:
    """One row of one suite, at one value of a hyper-parameter."""

    parameter: str
    family: str  # what else it depends on: variants of one family differ in the hyper-parameter alone
    series: str  # its line in the figure
    value: Any
    rows: Rows
    row: str


@figure("suites")
def hyper_parameters(
    source: Any,
    *,
    parameter: str | None = None,
    picked: Sequence[str] | None = None,
    column: str = "clean_accuracy",
) -> Any:
    """A column against a hyper-parameter in which suites or rows differ: weight decay, dropout.

    As figure 4 of Weinstein et al. (PMM). A suite's key is a hyper-parameter where the folders hold suites that differ
    in it alone, as `run-all --set training.weight_decay=0.001` makes them; a method's where they hold rows such as
    `ce_dropout(p=0.1)` and `ce_dropout(p=0.3)`: then the baseline is a ruler. Accuracies are drawn beside those of
    training images, dashed. Means over seeds with 95 % intervals from three seeds on.

    Args:
        source: see `rows_of`.
        parameter: a key of the suite (training.weight_decay), or KEY.FIELD of a method (ce_dropout.p). Default: the
            only one that varies.
        picked: methods to highlight. Default: all, up to eight.
        column: of the leaderboard.

    Raises:
        ParameterError: no suites or rows differ in the hyper-parameter alone, or there is no such column.
    """
    known = families(suites_of(source))
    if parameter is None and len(known) == 1:
        parameter = next(iter(known))
    if parameter not in known:
        hint = suggest(parameter or "", known) if known else "none varies: make some with `run-all --set KEY=VALUE`"
        raise ParameterError("parameter", parameter, f"should be one in which suites or rows differ alone: {hint}")
    variants = known[parameter]
    first = variants[0].rows
    quantity = Quantity.of(first.column(column), first.heading(column))
    values = [point for variant in variants for point in _points(variant, column)]
    if not values:
        raise MarginbenchError(f"suite {first.suite}: no row has the column {column}")
    series = list(dict.fromkeys(str(value["row"]) for value in values))
    for name in picked or ():
        if name not in series:
            raise ParameterError("picked", name, f"no such row: {suggest(name, series)}")
    ordered = sorted({variant.value for variant in variants}, key=_order)
    baseline = _baseline(variants, column)
    layers = _layers(values, [_text(value) for value in ordered], quantity, parameter, baseline)
    return titled(layered(layers, picked or series[:8]), f"{quantity.title} against {parameter}")


def families(suites: Sequence[Rows]) -> dict[str, list[Variant]]:
    """By hyper-parameter, the variants of its largest family, if two values or more were tried."""
    groups: dict[tuple[str, str], list[Variant]] = defaultdict(list)
    for variant in (*_of_suites(suites), *_of_methods(suites)):
        groups[variant.parameter, variant.family].append(variant)
    found: dict[str, list[Variant]] = {}
    for (parameter, _), group in sorted(groups.items()):
        tried = len({variant.value for variant in group})
        if tried > max(1, len({variant.value for variant in found.get(parameter, [])})):
            found[parameter] = group
    return found


def _of_suites(suites: Sequence[Rows]) -> Iterator[Variant]:
    flat = {rows.fingerprint: dotted(next(iter(rows.runs.values()))[0].suite.settings) for rows in suites}
    keys = sorted({key for settings in flat.values() for key in settings if key not in NAMES})
    varying = [key for key in keys if len({_text(settings.get(key)) for settings in flat.values()}) > 1]
    for rows in suites:
        settings = {key: value for key, value in flat[rows.fingerprint].items() if key not in NAMES}
        for key in varying:
            family = digest({name: value for name, value in settings.items() if name != key})
            for row in rows.runs:
                yield Variant(key, family, row, _plain(settings.get(key)), rows, row)


def _of_methods(suites: Sequence[Rows]) -> Iterator[Variant]:
    for rows in suites:
        for row, runs in rows.runs.items():
            of = runs[0].identity
            for field, value in of.fields.items():
                others = {name: setting for name, setting in of.fields.items() if name != field}
                family = digest([rows.fingerprint, of.method, others, of.recipe])
                yield Variant(f"{of.method}.{field}", family, of.method, _plain(value), rows, row)


def _plain(value: Any) -> Any:
    """A value that can be told from others: a list or a table as its text."""
    return value if isinstance(value, int | float | str | None) else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _points(variant: Variant, column: str) -> Iterator[dict[str, Any]]:
    train = "accuracy" in column and column != ALONE
    for kind, name in (("test", column), ("train", ALONE)) if train else (("test", column),):
        mean, low, high = variant.rows.interval(variant.row, name)
        if math.isfinite(mean):
            ends = {"low": low, "high": high}
            yield {"row": variant.series, "value": _text(variant.value), "mean": mean, "images": kind, **ends}


def _baseline(variants: Sequence[Variant], column: str) -> float | None:
    """The mean of the baseline in the suite of a method's variants."""
    one = variants[0]
    of_method = len({variant.series for variant in variants}) == 1 and one.series != BASELINE
    table = one.rows.table
    return table[BASELINE].mean(column)[0] if of_method and BASELINE in table else None


def _layers(
    values: Sequence[dict[str, Any]], order: Sequence[str], quantity: Quantity, parameter: str, baseline: float | None
) -> list[Any]:
    import altair as alt

    data = alt.Chart(inline(values))
    places = alt.Scale(type="point", padding=0.3)
    x = alt.X("value:N", title=parameter, sort=list(order), scale=places, axis=alt.Axis(labelAngle=0))
    y = alt.Y("mean:Q", title=quantity.title, axis=alt.Axis(format=quantity.ticks), scale=alt.Scale(zero=False))
    kinds = list(dict.fromkeys(str(value["images"]) for value in values))
    dash = kinds_of_line("images", kinds, "bottom-left")
    value = alt.Tooltip("mean:Q", title=quantity.title, format=quantity.format)
    tooltip = [alt.Tooltip("row:N"), alt.Tooltip("value:N", title=parameter), value, alt.Tooltip("images:N")]
    mine = data.transform_filter(IS_PICKED)
    low, colour = alt.Y("low:Q", title=quantity.title), row_colour()
    layers = [
        data.transform_filter(NOT_PICKED)
        .mark_line(style="other", strokeWidth=0.8)
        .encode(x=x, y=y, detail=[alt.Detail("row:N"), alt.Detail("images:N")], tooltip=tooltip),
        mine.transform_filter(f"isValid(datum.low) && datum.images == '{kinds[0]}'")
        .mark_rule(opacity=0.6)
        .encode(x=x, y=low, y2=alt.Y2("high:Q"), color=colour),
        mine.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour, strokeDash=dash),
        mine.mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip),
    ]
    if baseline is not None and math.isfinite(baseline):
        ruler = alt.Chart(inline([{"mean": baseline, "text": BASELINE}]))
        layers.append(ruler.mark_rule(style="ruler").encode(y=alt.Y("mean:Q", title=quantity.title)))
        text = ruler.mark_text(style="soft_label", align="right", baseline="bottom", x=alt.ExprRef("width"), dx=-2)
        layers.append(text.encode(y=alt.Y("mean:Q"), text=alt.Text("text:N")))
    return layers
