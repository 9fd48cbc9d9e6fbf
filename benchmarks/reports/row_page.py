"""What there is to know about one row: what it is, what its paper claims, and every run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.figures.examples import Example
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import precedence
from marginbench.benchmarks.records.record import Record, dotted
from marginbench.benchmarks.records.tuning import in_a_sentence
from marginbench.benchmarks.reports.board import Heading, Line
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.claims import Finding, claim_words, finding_words
from marginbench.benchmarks.tables.leaderboard import Row


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter, and what the registry says about it, if the method is installed."""

    name: str
    value: str
    default: str = ""
    unit: str = ""
    doc: str = ""
    source: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.default) and self.default != self.value


@dataclass(frozen=True)
class Claimed:
    """What a paper says to grow, and whether it does."""

    claim: str
    differences: Sequence[str]
    verdict: str


@dataclass(frozen=True)
class Run:
    """One network."""

    seed: int
    status: str
    error: str
    values: Sequence[str]
    seconds: str
    finished: str
    commit: str
    id: str
    doubts: Sequence[str]


@dataclass(frozen=True)
class Shown:
    """An adversarial example."""

    norm: str
    example: Example


@dataclass(frozen=True)
class RowPage:
    """Everything of one row."""

    line: Line
    paper: str
    section: str
    formula: str
    key: str
    revision: int
    plugin: str  # hash of its file, where it is not built in
    parameters: Sequence[Parameter]
    tuned: str  # how they were chosen, of a tuned row
    deviations: Sequence[str]
    claims: Sequence[Claimed]
    headings: Sequence[Heading]  # of the values of runs
    runs: Sequence[Run]
    evaluation: Sequence[tuple[str, str]]  # what did not apply or could not be checked
    examples: Sequence[Shown]
    fronts: Sequence[tuple[str, str]]  # against what, and in which columns no row is better

    @property
    def failed(self) -> list[Run]:
        """The runs that ended with an error."""
        return [run for run in self.runs if run.status == "failed"]


def row_page(
    line: Line,
    records: Sequence[Record],
    headings: Sequence[Heading],
    findings: Sequence[Finding],
    examples: Sequence[Shown],
    on_front: Sequence[tuple[str, str]],
) -> RowPage:
    """The page of a row of the table, from its records."""
    newest = max(records, key=precedence)
    of, known = newest.identity, _registered(newest)
    shown = {column.name: column for column in columns.measured(columns.of_probes(records))}
    headings = [heading for heading in headings if heading.shown and heading.name in newest.metrics]
    return RowPage(
        line,
        newest.about.paper,
        known.get("section", ""),
        known.get("formula", ""),
        of.method,
        of.revision,
        of.source or "",
        [
            *(_parameter(name, value, known.get("fields", {}).get(name)) for name, value in of.fields.items()),
            *(_of_recipe(name, value, newest) for name, value in (of.recipe or {}).items()),
        ],
        "" if newest.tuning is None else in_a_sentence(newest.tuning),
        known.get("deviations", ()),
        _claims(findings, shown),
        headings,
        [_run(record, headings, shown) for record in sorted(records, key=lambda record: record.repetition)],
        _estimators(records),
        examples,
        on_front,
    )


def fronts(row: Row, headings: Sequence[Heading]) -> list[tuple[str, str]]:
    """The Pareto fronts that a row of the leaderboard is on, and the headings of the columns in which it is."""
    texts = {heading.name: heading.text for heading in headings}
    return [
        (column.header, ", ".join(texts.get(name, name) for name in row.texts[column.name].split()))
        for column in columns.PARETO
        if row.texts.get(column.name)
    ]


def _registered(record: Record) -> Mapping[str, Any]:
    """What the registry says, where it knows this very method."""
    from marginbench.benchmarks.describe import facts
    from marginbench.methods import get, names

    key = record.identity.method
    if record.identity.source is not None or key not in names():
        return {}
    return facts(key) if get(key).info.revision == record.identity.revision else {}


def _parameter(name: str, value: Any, field: Mapping[str, Any] | None) -> Parameter:
    if field is None:
        return Parameter(name, _text(value))
    return Parameter(name, _text(value), _text(field["default"]), field["unit"], field["doc"], field["source"])


def _of_recipe(key: str, value: Any, record: Record) -> Parameter:
    """What the row changes of the suite's recipe."""
    default = _text(dotted(record.suite.settings).get(key))
    return Parameter(key, _text(value), default, "-", "of the recipe", "default: the suite's")


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _claims(findings: Sequence[Finding], shown: Mapping[str, Column]) -> list[Claimed]:
    claims = dict.fromkeys(finding.claim for finding in findings)
    return [
        Claimed(claim_words(claim), [finding_words(one, shown) for one in own], own[0].verdict)
        for claim in claims
        if (own := [finding for finding in findings if finding.claim == claim])
    ]


def _run(record: Record, headings: Sequence[Heading], shown: Mapping[str, Column]) -> Run:
    seconds = record.cost.get("seconds")
    return Run(
        record.repetition,
        record.status,
        record.error or "",
        [shown[heading.name].text(record.metrics.get(heading.name, float("nan"))) for heading in headings],
        "—" if seconds is None else f"{seconds:.1f}",
        f"{record.finished[:10]} {record.finished[11:16]}",
        str(record.environment.commit or "—"),
        record.id,
        sorted(record.doubts),
    )


def _estimators(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Estimators that did not apply, or could not be checked, each with the reason."""
    found = {
        (name.replace("_", " "), f"{'not applicable' if key == 'not_applicable' else key}: {entry[key]}")
        for record in records
        for name, entry in record.estimators.items()
        for key in ("not_applicable", "unchecked")
        if key in entry and not name.startswith("own_")
    }
    return sorted(found)
