"""What papers claim, beside what was measured: the difference to cross-entropy, column by column.

Records say what each method claims. Differences, their intervals and p are those of all tables, see `pairs`; a claim
that may show in several columns is held to 5 % over these (Bonferroni).
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import About, Record
from marginbench.benchmarks.statistics.paired import LEVEL
from marginbench.benchmarks.statistics.pairwise import MIN_SEEDS
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.cells import MEASURED_NOTHING
from marginbench.benchmarks.tables.derived import BASELINE, OF_TUNED
from marginbench.benchmarks.tables.leaderboard import suite_name
from marginbench.benchmarks.tables.pairs import (
    ColumnPairs,
    Difference,
    SuiteRuns,
    Suites,
    column_pairs,
    suite_runs,
)
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
    f"difference = mean of the method minus that of cross-entropy [95 % interval], as in the leaderboard, from"
    f" {MIN_SEEDS} networks of each on. yes: it is above 0 in one column at least, p < {LEVEL:g} ({LEVEL / 2:g} in each"
    " where a claim is read off two), uncorrected for the number of methods; no: it is below 0 in all; open: neither."
    " Accuracies in points of per cent, margins in pixels of [0, 1]."
)


@dataclass(frozen=True)
class Finding:
    """A column in which a claim should show: `method` minus cross-entropy."""

    suite: str
    suite_fingerprint: str
    method: str
    claim: Claim
    column: str
    n: int  # networks of the method; 0 where it or the baseline was not measured
    difference: float  # of the means; NaN where they are infinite in both, or none
    low: float  # of its 95 % interval; NaN below three networks of either
    high: float
    p: float  # two-sided, uncorrected
    verdict: str  # yes, no or open: of the claim as a whole


def claims(reading: Reading) -> "pd.DataFrame":
    """One row per suite, method, claim and column, with the fields of `Finding`."""
    import pandas as pd

    return pd.DataFrame([asdict(finding) for finding in findings(reading)])


Runs = Sequence[Record]  # of one row


def findings(source: Reading | Suites) -> list[Finding]:
    """What the records that count say about every claim; see `records.current.current`."""
    suites = suite_runs(source)
    counted = [record for suite in suites.values() for record in suite.records]
    known = {column.name: column for column in columns.measured(columns.of_probes(counted))}
    return [finding for fingerprint, suite in suites.items() for finding in _of_suite(fingerprint, suite, known)]


def _of_suite(fingerprint: str, suite: SuiteRuns, known: Mapping[str, Column]) -> Iterator[Finding]:
    claimed = {row: _newest(runs).about.claims for row, runs in suite.runs.items()}
    wanted = {name for own in claimed.values() for claim in own for name in _CLAIMS[claim].columns}
    pairs = {name: column_pairs(suite, known[name]) for name in wanted if name in known}
    for row, own in claimed.items():
        for claim in own:
            names = _CLAIMS[claim].columns
            differences = [_difference(pairs.get(name), row) for name in names]
            verdict = _verdict([difference for _, difference in differences])
            for name, (n, of) in zip(names, differences, strict=True):
                facts = suite.runs[row][0].suite.name, fingerprint, row, claim, name
                yield Finding(*facts, n, of.value, of.low, of.high, of.p, verdict)


def _difference(pairs: ColumnPairs | None, row: str) -> tuple[int, Difference]:
    """To the baseline, and of how many networks."""
    if pairs is None:
        return 0, Difference(math.nan)
    baseline = pairs.suite.baseline_of(row)
    own, base = (len(pairs.suite.measured(name, pairs.column.name)) for name in (row, baseline))
    return own if base else 0, pairs.difference(row, baseline)


def _verdict(differences: Sequence[Difference]) -> str:
    level = LEVEL / len(differences)
    if any(difference.value > 0 and difference.p < level for difference in differences):
        return "yes"
    return "no" if all(difference.value < 0 and difference.p < level for difference in differences) else "open"


def _newest(runs: Runs) -> Record:
    return max(runs, key=lambda record: (record.finished, record.id))


def render_claims(reading: Reading, papers: bool = True) -> str:
    """Markdown: every row of the records with family, paper and claims, and what they say about them.

    Args:
        papers: whether there are columns for family and paper, which are too wide for a terminal.
    """
    records = list(reading.records.values())
    known = {column.name: column for column in columns.measured(columns.of_probes(records))}
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings(reading):
        found[finding.suite_fingerprint, finding.method].append(finding)
    pages = []
    suites: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in current(records):
        suites[record.identity.suite][record.method].append(record)
    for suite in suites.values():
        rows = sorted(map(_newest, suite.values()), key=_place)
        header = ("method", "family", "paper", f"claim, and difference to {BASELINE}", "shown")
        table: list[tuple[str, ...]] = [header, ("---",) * len(header)]
        for row in rows:
            cells = _cells(found[row.identity.suite, row.method], known)
            table += [(row.method, *(_known(text) for text in (row.about.family, row.about.paper)), *cells)]
        if not papers:
            table = [line[:1] + line[3:] for line in table]
        # unpadded: papers have long titles
        text = "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in table)
        name = suite_name(rows[0].identity.suite, records)
        legend = f"{LEGEND} {OF_TUNED}" if any(row.tuning for row in rows) else LEGEND
        pages.append(f"## {name}: what is claimed, and what was measured\n\n{text}\n\n- {legend}\n")
    return "\n".join(pages)


def _place(record: Record) -> tuple[bool, str, str, int, str]:
    """Family by family, each method followed by its presets and variants; what nothing is known about comes last."""
    about = record.about
    return not about.known, about.family, record.identity.method, about.place, record.method


def _known(text: str) -> str:
    return MEASURED_NOTHING if text == About().paper else text


def claim_words(claim: Claim) -> str:
    """What is said to grow, as tables say it."""
    return _CLAIMS[claim].words


def _cells(own: Sequence[Finding], known: Mapping[str, Column]) -> tuple[str, str]:
    texts, verdicts = [], []
    for claim in dict.fromkeys(finding.claim for finding in own):
        shown = [finding for finding in own if finding.claim == claim]
        texts.append(f"{claim_words(claim)}: {', '.join(finding_words(finding, known) for finding in shown)}")
        verdicts.append(shown[0].verdict)
    return "; ".join(texts) or MEASURED_NOTHING, ", ".join(verdicts) or MEASURED_NOTHING


def finding_words(finding: Finding, known: Mapping[str, Column]) -> str:
    """`L2 +1.2 [+0.8, +1.6]`.

    Args:
        known: the columns of the tables, by name.
    """
    if not finding.n:
        return "not measured"
    if math.isnan(finding.difference):
        return "infinite in both or not a number"
    column = known[finding.column]
    norm = NORM_TEXT.get(columns.norm_of(column.name), "")
    return f"{norm} {column.signed(finding.difference)}{column.between(finding.low, finding.high)}".strip()
