"""Which margin predicts what, and how tight the estimators are, as a page of Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.tables.cells import Side
from marginbench.benchmarks.tables.margins import METHODS, margins, networks_of
from marginbench.benchmarks.tables.margins_words import has_intervals, score, sentences, tightness_words, title
from marginbench.benchmarks.tables.measures import MEASURES, TARGETS
from marginbench.benchmarks.tables.text import pipe
from marginbench.benchmarks.tables.tightness import BESIDE, tightness
from marginbench.methods import NORMS

Line = Mapping[str, Any]

HEADERS = {
    "across": "τ across methods",
    "within": "τ within a method",
    "granulated": "granulated",
    "information": "information",
    "r2": "R² of a method left out",
}
ON_PAGE = {(measure.name, measure.over) for measure in MEASURES if measure.on_page}
NOTES = (
    "τ = Kendall's tau-b: 1 where the measure orders networks as the target does, -1 the other way round. Across"
    " methods: mean over seeds. Within a method: mean over rows of the τ between their seeds. granulated = the mean"
    " of both (Jiang et al., ICLR 2020).",
    "information = share of the order by the target that the measure tells and neither method, family nor seed does:"
    " the least over these conditions, as in the competition PGDL. It has no sign.",
    "R² = of a linear predictor for methods that it has not seen: below 0 where the mean of the others does better.",
    "[low, high] = 95 % intervals of a bootstrap over methods, each with all its rows: other settings of a method, and"
    " tuned ones, are no independent draws. The words name a measure, and call it closer than another, only where an"
    " interval that holds for all measures of the target at once (Bonferroni) does not hold 0; and where shuffled"
    " values seldom do as well (a permutation test).",
    "Measures are means over the test images that are classified correctly, since a mean that counts the others as 0"
    " contains the accuracy (`--over-all` adds it; csv and json have more columns). Those that are linearised, here"
    " medians, or constrained are of training images: they know nothing of the test images.",
    "= marks a measure made of the same bounds as the target: that it orders it says nothing. The same attacks or"
    " certificates in the other norm say little more.",
    "generalisation gap = training minus validation accuracy: there, a good measure has a negative τ.",
    "factor = by how much an estimator is off at the median correct point; ratio = estimate / what it stands beside:"
    " the quantiles 0.05, 0.5 and 0.95, and the worst. Attacks at the suite's radius find nothing beyond it: ∞."
    " Estimates are no bounds: above = share of points at which they exceed the exact margin.",
)


TOO_FEW = f"Nothing can be said: fewer than {METHODS} methods, or no margins that were measured."


def render_margins(
    reading: Reading, form: str = "md", targets: Sequence[str] = (), *, over_all: bool = False, width: int | None = None
) -> str:
    """A table as text.

    Args:
        form: md, csv or json; csv and json hold `margins` alone, with all columns.
        targets, over_all: see `margins`.
        width: characters that a line of a table may have; further columns are left out, and named.
    """
    networks = networks_of(reading)
    table = margins(networks, targets, over_all=over_all)
    if form == "csv":
        return table.to_csv(index=False)
    if form == "json":
        return table.to_json(orient="records", indent=1, force_ascii=False, double_precision=15) + "\n"
    lines: list[Any] = table.to_dict("records")
    tight: list[Any] = tightness(networks).to_dict("records")
    parts = []
    for fingerprint, name in _suites([*lines, *tight]).items():
        own, near = ([line for line in of if line["suite_fingerprint"] == fingerprint] for of in (lines, tight))
        parts.append(f"## {name}\n\n" + "\n\n".join([*_predictions(own, width), *_tightness(near, width)]))
    told = {line["suite_fingerprint"] for line in (*lines, *tight)}
    firsts = [of_suite[0].record for of_suite in networks.suites]
    parts += [f"## {first.suite.name}\n\n{TOO_FEW}" for first in firsts if first.identity.suite not in told]
    notes = "\n".join(f"- {note}" for note in NOTES)
    return "\n\n".join([*parts, f"### How to read this\n\n{notes}\n"])


def page(reading: Reading) -> str:
    """The file results/margins.md."""
    made = "Made from the records in [reference](reference) by `python results/refresh.py`."
    return f"# Which margin predicts what\n\n{made}\n\n{render_margins(reading)}"


def _suites(lines: Sequence[Line]) -> dict[str, str]:
    """Fingerprint to heading, which holds the fingerprint where two suites have one name."""
    names = {line["suite_fingerprint"]: line["suite"] for line in lines}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        line["suite_fingerprint"]: line["suite"]
        + (f" ({line['suite_fingerprint'][:8]})" if line["suite"] in twice else "")
        + f": {line['title']}"
        for line in lines
    }


def _predictions(lines: Sequence[Line], width: int | None) -> list[str]:
    if not lines:
        return [TOO_FEW]
    first, *points = sentences(lines)
    parts = [first, "\n".join(f"- {point}" for point in points)] if points else [first]
    for target in TARGETS:
        shown = [line for line in lines if line["target"] == target.name and (line["measure"], line["over"]) in ON_PAGE]
        if has_intervals(shown):
            said = [line for line in shown if any(not math.isnan(line[name]) for name in HEADERS)]
            ordered = sorted(said, key=lambda line: _last(-target.sign * line["across"]))
            kept = [name for name in HEADERS if any(not math.isnan(line[name]) for line in ordered)]
            cells = [(_marked(line), *(score(line, name) for name in kept)) for line in ordered]
            header = ("measure", *(HEADERS[name] for name in kept))
            parts.append(f"### {target.title}\n\n" + _fitting(header, cells, width))
    return parts


def _tightness(lines: Sequence[Line], width: int | None) -> list[str]:
    parts = []
    for norm in NORMS:
        of_norm = [line for line in lines if line["norm"] == norm]
        for beside in BESIDE:
            chosen = [line for line in of_norm if line["beside"] == beside]
            if chosen:
                header = ("estimator", "kind", "factor", "ratio", "worst", "above", "points", "networks")
                table = _fitting(header, [_tight_cells(line) for line in chosen], width)
                head = f"### How near to the {BESIDE[beside]}, {NORM_TEXT[norm]}"
                parts.append("\n\n".join([head, tightness_words(chosen), table]))
                break  # the exact one says it better
    return parts


def _tight_cells(line: Line) -> tuple[str, ...]:
    ratio = f"{_ratio(line['low'])}, {_ratio(line['median'])}, {_ratio(line['high'])}"
    above = "" if math.isnan(line["wrong_side"]) else f"{100 * line['wrong_side']:.1f} %"
    counts = f"{line['points']:,}", str(line["networks"])
    return line["estimator"], line["kind"], _ratio(line["factor"]), ratio, _ratio(line["worst"]), above, *counts


def _ratio(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"


def _marked(line: Line) -> str:
    return title(line) + (" =" if line["shares"] == "bounds" else "")


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _fitting(header: Sequence[str], cells: Sequence[Sequence[str]], width: int | None) -> str:
    """A table without the last columns that do not fit, and below it how to see them."""
    count = len(header)
    while True:
        sides: list[Side] = ["left", *["right"] * (count - 1)]  # type: ignore[list-item]
        text = pipe(header[:count], [row[:count] for row in cells], sides)
        if width is None or count <= 2 or len(text.splitlines()[0]) <= width:
            break
        count -= 1
    left_out = ", ".join(header[count:])
    return f"{text}\n\nNot shown: {left_out} (a wider terminal, -o FILE.md, or --format csv)." if left_out else text
