"""The figures of a suite, each with its variants: one for every norm, unit, quantity or column."""

import itertools
import logging
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marginbench.benchmarks.figures.draw import drawn
from marginbench.benchmarks.figures.figure import Figure
from marginbench.benchmarks.figures.hyper_parameters import families
from marginbench.benchmarks.figures.rows import Rows, suites_of
from marginbench.benchmarks.figures.scan import FIGURES
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.tables.columns import norm_of
from marginbench.methods import MarginbenchError

log = logging.getLogger(__name__)

LEAST_HEIGHT = 300  # pixels, on a page; those of a paper's column may be lower
TALL = 500  # and what is higher than this has the whole width
AGAINST = ("robust_accuracy_", "certified_accuracy_")  # columns that a figure of any column is drawn of


@dataclass(frozen=True)
class Variant:
    """One way of drawing a figure."""

    options: Mapping[str, str]
    norm: str  # or nothing
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """A figure, or why there is none."""

    name: str
    about: str
    variants: Sequence[Variant] = ()
    problem: str = ""
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of each option, its values and their words

    @property
    def tall(self) -> bool:
        heights = [variant.spec.get("height") for variant in self.variants]
        return any(isinstance(height, int | float) and height > TALL for height in heights)


def panels(of: str, source: Any, **options: Any) -> list[Panel]:
    """All figures of this kind, drawn of the source, tall ones last; what cannot be drawn says why.

    Figures of several suites that show one of them at a time are left out.
    """
    found = [
        panel(figure, source, options)
        for figure in FIGURES.values()
        if figure.of == of and not (of == "suites" and "suite" in figure.options)
    ]
    return sorted(found, key=lambda one: (one.tall, not one.variants))


def panel(figure: Figure, source: Any, options: Mapping[str, Any]) -> Panel:
    """A figure in all its variants."""
    from altair.utils.schemapi import debug_mode

    given = {key: value for key, value in options.items() if key in figure.options}
    variants, problems = [], []
    for choice in _choices(figure, source):
        norm = choice.get("norm") or norm_of(choice.get("column", ""))
        try:
            with debug_mode(False):  # which validates every part of every chart: the figures' own tests do that
                variants.append(Variant(choice, norm, _fluid(drawn(figure, source, {**given, **choice}))))
        except MarginbenchError as error:
            problems.append(str(error))
    log.info("report: %s", figure.name.replace("_", " "))
    words = {
        key: {value: _words(value, source) for value in dict.fromkeys(one.options[key] for one in variants)}
        for key in (variants[0].options if variants else ())
    }
    problem = "" if variants else "; ".join(dict.fromkeys(problems))
    return Panel(figure.name, figure.about, variants, problem, words)


def _choices(figure: Figure, source: Any) -> Iterator[dict[str, str]]:
    """Every combination of what its options can be."""
    hints = typing.get_type_hints(figure.function)
    values: dict[str, Sequence[str]] = {}
    for name in figure.options:
        if typing.get_origin(hints[name]) is typing.Literal:
            values[name] = typing.get_args(hints[name])
        elif name == "column" and isinstance(source, Rows):
            measured = {metric for runs in source.runs.values() for record in runs for metric in record.metrics}
            columns = [column for column in source.columns if column.startswith(AGAINST) and column in measured]
            values |= {name: columns} if columns else {}  # of sentences there is no such column: the usual one is drawn
        elif name == "parameter":
            values[name] = list(families(suites_of(source))) or [""]
    return (dict(zip(values, one, strict=True)) for one in itertools.product(*values.values()))


def _words(value: str, source: Any) -> str:
    if isinstance(source, Rows) and value in source.columns:
        return source.heading(value)
    return NORM_TEXT.get(value, value)


def _fluid(chart: Any) -> dict[str, Any]:
    """The specification of a chart as wide as the page lets it be."""
    spec = chart.to_dict(validate=False)
    fit = {"type": "fit", "contains": "padding", "resize": True}
    spec.update(width="container", autosize=fit, padding=2)  # here: properties() of a chart copies all its data
    spec.pop("config", None)  # the page's
    if isinstance(spec.get("height"), int | float):
        spec["height"] = max(spec["height"], LEAST_HEIGHT)
    return dict(spec)
