"""What a table of margins shows, in sentences made from its numbers: none says more than an interval allows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marginbench.benchmarks.tables.measures import ALL, MEASURES, TARGETS, Target
from marginbench.benchmarks.tables.tightness import ATTACK, ATTACKED, BESIDE
from marginbench.methods.words import counted, few, listed

Line = Mapping[str, Any]  # of `margins`
TITLES = {(measure.name, measure.over): measure.title for measure in MEASURES}
MOST = 4  # measures that a sentence names


def title(line: Line) -> str:
    """The measure of a line."""
    text = TITLES[line["measure"], line["over"]]
    return f"{text}, all images" if line["over"] == ALL else text


def sentences(lines: Sequence[Line]) -> list[str]:
    """What came out for one suite: of what, then a point for each target, whose name is bold, and what remains."""
    networks, rows, methods = (max(line[name] for line in lines) for name in ("networks", "rows", "methods"))
    settings = f", in {rows} rows" if rows > methods else ""
    said = [f"{counted(networks, 'network')} of {counted(methods, 'method')}{settings}."]
    if not has_intervals(lines):
        return [f"{said[0]} So few methods have no intervals, and nothing can be said of measures."]
    silent, open_ = [], []
    for target in TARGETS:
        of_target = [line for line in lines if line["target"] == target.name]
        if any(line[name] for line in of_target for name in ("across_shown", "within_shown", "r2_shown")):
            said.append(_sentence(target, of_target))
        elif has_intervals(of_target):
            open_.append(target.title)
        elif of_target:
            silent.append(target.title)
    if open_:
        said.append(f"No measure is shown to say anything of {listed(open_)}.")
    if silent:
        said.append(f"Too few networks differ in {listed(silent)} to say what predicts it.")
    if networks == rows:
        said.append("With one network of each method, nothing can be said of measures within a method.")
    said.append("That a measure orders networks is no proof that enlarging it helps: methods differ in more than that.")
    return said


def has_intervals(lines: Sequence[Line]) -> bool:
    """Do enough methods differ for any interval?"""
    return any(not math.isnan(line["across_low"]) for line in lines)


def _sentence(target: Target, lines: Sequence[Line]) -> str:
    """`Test accuracy` across methods ...; between seeds ...; for methods left out ..."""
    parts = [f"across methods {_along('across', target, lines)}"]
    if any(not math.isnan(line["within_low"]) for line in lines):
        parts.append(f"between the seeds of a method {_along('within', target, lines)}")
    linear = sorted((line for line in lines if line["r2_shown"]), key=lambda line: -line["r2"])
    if linear:
        names = few([f"{title(line)} (R² {score(line, 'r2')})" for line in linear], MOST)
        parts.append(f"for a method left out it is predicted, better than by the mean, from {names}")
    else:
        parts.append("for a method left out no linear predictor is shown to do better than the mean")
    return f"**{target.title[0].upper()}{target.title[1:]}**: {'; '.join(parts)}."


def _along(axis: str, target: Target, lines: Sequence[Line]) -> str:
    shown = sorted((line for line in lines if line[f"{axis}_shown"]), key=lambda line: -target.sign * line[axis])
    right = [line for line in shown if target.sign * line[axis] > 0]
    wrong = [line for line in reversed(shown) if target.sign * line[axis] < 0]
    better, worse = ("grows", "falls") if target.sign > 0 else ("falls", "grows")
    said = []
    if right:
        best, rivals = right[0], [line for line in lines if line[f"{axis}_best"] and line is not right[0]]
        tied = f"not told apart: {few([title(line) for line in rivals], MOST)}" if rivals else "closer than any other"
        said.append(f"it {better} with {title(best)} (τ {score(best, axis)}; {tied})")
    else:
        said.append(f"no measure is shown with which it {better}")
    if wrong:
        said.append(f"it {worse} with {few([f'{title(line)} ({_number(line[axis])})' for line in wrong], MOST)}")
    return ", and ".join(said)


def score(line: Line, name: str) -> str:
    """`0.46 [0.31, 0.57]`, without an interval where there is none, and — for nothing."""
    value, low, high = (line[name + end] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "—"
    return _number(value) if math.isnan(low) else f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    if value < -1:
        return "< -1"  # R²: how much worse than the mean does not matter
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def tightness_words(lines: Sequence[Line]) -> str:
    """The nearest estimator of each kind, from lines of `tightness` with one norm and one `beside`.

    Those that were asked about few of the points compete with none.
    """
    beside, most = lines[0]["beside"], max(line["points"] for line in lines)
    nearest: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: line["factor"]):
        if (
            line["points"] >= 0.9 * most
            and math.isfinite(line["factor"])
            and (beside, line["kind"]) != (ATTACKED, ATTACK)
        ):
            nearest.setdefault(line["kind"], line)
    if not nearest:
        return f"No estimator says anything of the {BESIDE[beside]} at the median point."
    named = [
        f"{kind} {line['estimator']} {line['median']:.2f} and {line['worst']:.2g}" for kind, line in nearest.items()
    ]
    return f"The nearest, as ratios to the {BESIDE[beside]} at the median point and at worst: {listed(named)}."
