"""What papers claim, beside what was measured: the difference to cross-entropy, column by column.

A pure function of the records, which say what each method claims. Networks of one repetition start from the same
weights and see the same batches, so differences are taken repetition by repetition, with Student's interval over them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.paired import LEVEL, mean_and_interval
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import suite_name
from marginbench.benchmarks.tables.text import escaped
from marginbench.methods import NORMS, Claim

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Shown:
    """Where a claim should show."""

    words: str
    columns: tuple[str, ...]


_CLAIMS: Mapping[Claim, _Shown] = {
    "accuracy": _Shown("clean accuracy", ("clean_accuracy",)),
    "feature_margin": _Shown("feature margin", ("feature_margin",)),
    "input_margin": _Shown("input margin", tuple(f"margin_upper_{norm}" for norm in NORMS)),
    "certified_radius": _Shown("certified accuracy", tuple(f"certified_accuracy_{norm}" for norm in NORMS)),
    "rejection": _Shown("robust accuracy, rejecting", tuple(f"rejection_robust_accuracy_{norm}" for norm in NORMS)),
    "smoothed_radius": _Shown("certified accuracy of the smoothed classifier", ("smoothed_certified_accuracy_l2",)),
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
    suite_fingerprint: str
    method: str
    claim: Claim
    column: str
    n: int  # pairs of networks
    difference: float  # mean over the pairs
    half: float | None  # half width of the interval
    verdict: str  # yes, no or open: of the claim as a whole


def claims(records: Iterable[Record]) -> "pd.DataFrame":
    """One row per suite, method, claim and column, with the fields of `Finding`."""
    import pandas as pd

    return pd.DataFrame([asdict(finding) for finding in findings(records)])


Runs = Sequence[Record]  # of one row
Suite = dict[str, list[Record]]  # the runs of its rows


def findings(records: Iterable[Record]) -> list[Finding]:
    """What the records that count say about every claim; see `records.current.current`."""
    return [finding for suite in _suites(records) for finding in _of_suite(suite)]


def _suites(records: Iterable[Record]) -> list[Suite]:
    """The records that count: a row has one version, the runs of which differ in the repetition."""
    suites: dict[str, Suite] = defaultdict(lambda: defaultdict(list))
    for record in current(records):
        suites[record.identity.suite][record.method].append(record)
    return list(suites.values())


def _of_suite(suite: Suite) -> list[Finding]:
    baseline = suite.get(BASELINE, ())
    return [
        finding
        for runs in suite.values()
        if any(run.status == "done" for run in runs)
        for claim in _newest(runs).about.claims
        for finding in _findings(claim, runs, baseline)
    ]


def _newest(runs: Runs) -> Record:
    return max(runs, key=lambda record: (record.finished, record.id))


def _findings(claim: Claim, runs: Runs, baseline: Runs) -> list[Finding]:
    names = _CLAIMS[claim].columns
    differences = [_difference(runs, baseline, name, level=1 - LEVEL / len(names)) for name in names]
    verdict = _verdict(differences)
    row = runs[0]
    return [
        Finding(row.suite.name, row.identity.suite, row.method, claim, name, *difference, verdict)
        for name, difference in zip(names, differences, strict=True)
    ]


Difference = tuple[int, float, float | None]


def _difference(runs: Runs, baseline: Runs, name: str, level: float) -> Difference:
    own, other = _measured(runs, name), _measured(baseline, name)
    differences = [own[pair] - other[pair] for pair in own if pair in other]
    return len(differences), *mean_and_interval(differences, level)


def _measured(runs: Runs, name: str) -> dict[int, float]:
    """By repetition: networks of one make a pair."""
    done = [run for run in runs if run.status == "done" and name in run.metrics]
    return {run.repetition: run.metrics[name] for run in done}


def _verdict(differences: Sequence[Difference]) -> str:
    if any(half is not None and mean - half > 0 for _, mean, half in differences):
        return "yes"
    return "no" if all(half is not None and mean + half < 0 for _, mean, half in differences) else "open"


def render_claims(records: Iterable[Record], papers: bool = True) -> str:
    """Markdown: every row of the records with family, paper and claims, and what they say about them.

    Args:
        papers: whether there are columns for family and paper, which are too wide for a terminal.
    """
    records = list(records)
    known = {column.name: column for column in columns.measured(columns.of_probes(records))}
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings(records):
        found[finding.suite_fingerprint, finding.method].append(finding)
    pages = []
    for suite in _suites(records):
        rows = sorted(map(_newest, suite.values()), key=_place)
        header = ("method", "family", "paper", f"claim, and difference to {BASELINE}", "shown")
        table: list[tuple[str, ...]] = [header, ("---",) * len(header)]
        for row in rows:
            cells = _cells(found[row.identity.suite, row.method], known)
            table += [(row.method, row.about.family, row.about.paper, *cells)]
        if not papers:
            table = [line[:1] + line[3:] for line in table]
        # unpadded: papers have long titles
        text = "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in table)
        name = suite_name(rows[0].identity.suite, records)
        pages.append(f"## {name}: what is claimed, and what was measured\n\n{text}\n\n- {LEGEND}\n")
    return "\n".join(pages)


def _place(record: Record) -> tuple[bool, str, str, int, str]:
    """Family by family, each method followed by its presets and variants; what nothing is known about comes last."""
    about = record.about
    return not about.known, about.family, record.identity.method, about.place, record.method


def claim_words(claim: Claim) -> str:
    """What is said to grow, as tables say it."""
    return _CLAIMS[claim].words


def _cells(own: Sequence[Finding], known: Mapping[str, Column]) -> tuple[str, str]:
    texts, verdicts = [], []
    for claim in dict.fromkeys(finding.claim for finding in own):
        shown = [finding for finding in own if finding.claim == claim]
        texts.append(f"{claim_words(claim)}: {', '.join(finding_words(finding, known) for finding in shown)}")
        verdicts.append(shown[0].verdict)
    return "; ".join(texts) or "-", ", ".join(verdicts) or "-"


def finding_words(finding: Finding, known: Mapping[str, Column]) -> str:
    """`L2 +1.2 ± 0.4`.

    Args:
        known: the columns of the tables, by name.
    """
    if not finding.n:
        return "not measured"
    if math.isnan(finding.difference):
        return "infinite in both or not a number"
    column = known[finding.column]
    norm = NORM_TEXT.get(columns.norm_of(column.name), "")
    return f"{norm} {column.signed(finding.difference)}{column.plus_minus(finding.half)}".strip()
