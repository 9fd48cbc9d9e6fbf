"""What papers claim, beside what was measured: the difference to cross-entropy, column by column.

A pure function of the records. Networks of one repetition start from the same weights and see the same batches, so
differences are taken repetition by repetition, with Student's interval over them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from marginbench.benchmarks.records.metrics import NORM_TEXT
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.leaderboard import numbers
from marginbench.benchmarks.tables.statistics import mean_and_interval
from marginbench.methods import Info, MarginbenchError, create, rows
from marginbench.methods.facts import Claim

BASELINE = "ce"
COLUMNS: Mapping[Claim, tuple[str, ...]] = {
    "accuracy": ("clean_accuracy",),
    "feature_margin": ("feature_margin",),
    "input_margin": ("margin_upper_l2", "margin_upper_linf"),
    "certified_radius": ("certified_accuracy_l2", "certified_accuracy_linf"),
    "rejection": ("rejection_robust_accuracy_l2", "rejection_robust_accuracy_linf"),
    "smoothed_radius": ("smoothed_certified_accuracy_l2",),
}
_WORDS: Mapping[Claim, str] = {
    "accuracy": "clean accuracy",
    "feature_margin": "feature margin",
    "input_margin": "input margin",
    "certified_radius": "certified accuracy",
    "rejection": "robust accuracy, rejecting",
    "smoothed_radius": "certified accuracy of the smoothed classifier",
}
LEGEND = (
    "difference = mean over paired networks of the method minus cross-entropy, ± half of Student's 95 % interval"
    " (97.5 % where a claim is read off two columns); yes: the interval lies above 0 in one column at least, no: below"
    " 0 in all, open: neither. Accuracies in points of per cent, margins in pixels of [0, 1]."
)


@dataclass(frozen=True)
class Finding:
    """A column in which a claim should show: `method` minus cross-entropy."""

    suite: str
    method: str
    claim: Claim
    column: str
    n: int  # pairs of networks
    difference: float  # mean over the pairs
    half: float | None  # half width of the interval
    verdict: str  # yes, no or open: of the claim as a whole


def claims(records: Iterable[Record]) -> pd.DataFrame:
    """One row per suite, method, claim and column, with the fields of `Finding`."""
    return pd.DataFrame([asdict(finding) for finding in findings(records)])


def findings(records: Iterable[Record]) -> list[Finding]:
    """What the records say about every claim."""
    runs: dict[str, dict[str, dict[int, dict[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.status == "done":
            runs[record.suite["name"]][record.method][record.repetition] = numbers(record.metrics)
    return [
        Finding(suite, method, claim, column, *difference, _verdict(differences))
        for suite, methods in runs.items()
        for method in list(methods)
        for claim in claims_of(method)
        for differences in [[_difference(methods[method], methods[BASELINE], c, claim) for c in COLUMNS[claim]]]
        for column, difference in zip(COLUMNS[claim], differences, strict=True)
    ]


def claims_of(method: str) -> tuple[Claim, ...]:
    """What is said to grow with a method; nothing for a plug-in that is not loaded."""
    info = _info(method)
    return info.claims if info else ()


def _info(method: str) -> Info | None:
    try:
        return type(create(method)).info
    except MarginbenchError:
        return None


Difference = tuple[int, float, float | None]


def _difference(
    values: Mapping[int, Mapping[str, float]], baseline: Mapping[int, Mapping[str, float]], column: str, claim: Claim
) -> Difference:
    pairs = [(values[seed].get(column), baseline[seed].get(column)) for seed in values if seed in baseline]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return len(differences), *mean_and_interval(differences, level=1 - 0.05 / len(COLUMNS[claim]))


def _verdict(differences: Sequence[Difference]) -> str:
    if any(half is not None and mean - half > 0 for _, mean, half in differences):
        return "yes"
    return "no" if all(half is not None and mean + half < 0 for _, mean, half in differences) else "open"


def render_claims(records: Iterable[Record]) -> str:
    """Markdown: every row of the records with family, paper and claims, and what they say about them."""
    found: dict[str, dict[str, list[Finding]]] = defaultdict(lambda: defaultdict(list))
    for record in (records := list(records)):
        _ = found[record.suite["name"]][record.method]
    for finding in findings(records):
        found[finding.suite][finding.method].append(finding)
    pages = []
    for suite, methods in found.items():
        table = [("method", "family", "paper", f"claim, and difference to {BASELINE}", "shown"), ("---",) * 5]
        for method in sorted(methods, key=_place):
            info = _info(method)
            about = (info.family, info.paper) if info else ("-", "-")
            table.append((method, *about, *_cells(methods[method])))
        text = "\n".join(f"| {' | '.join(line)} |" for line in table)  # unpadded: papers have long titles
        pages.append(f"## {suite}: what is claimed, and what was measured\n\n{text}\n\n- {LEGEND}\n")
    return "\n".join(pages)


def _place(method: str) -> tuple[int, str]:
    """Rows in the order of the registry, each followed by its variants; what is not registered comes last."""
    order = list(rows())
    key = method.partition("(")[0]
    return order.index(key) if key in order else len(order), method


def _cells(own: Sequence[Finding]) -> tuple[str, str]:
    texts, verdicts = [], []
    for claim in dict.fromkeys(finding.claim for finding in own):
        columns = [finding for finding in own if finding.claim == claim]
        texts.append(f"{_WORDS[claim]}: {', '.join(map(_text, columns))}")
        verdicts.append(columns[0].verdict)
    return "; ".join(texts) or "-", ", ".join(verdicts) or "-"


def _text(finding: Finding) -> str:
    if math.isnan(finding.difference):
        return "not measured"
    factor, digits = (1, 3) if finding.claim.endswith("margin") else (100, 1)
    norm = NORM_TEXT.get(finding.column.rsplit("_", 1)[-1], "")
    interval = "" if finding.half is None else f" ± {factor * finding.half:.{digits}f}"
    return f"{norm} {factor * finding.difference:+.{digits}f}{interval}".strip()
