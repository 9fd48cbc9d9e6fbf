"""All that a report says about one suite."""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from marginbench.benchmarks.figures.examples import examples
from marginbench.benchmarks.figures.kept import Kept
from marginbench.benchmarks.figures.rows import Rows, suites_of
from marginbench.benchmarks.records.current import marks
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.reports.board import Board, board
from marginbench.benchmarks.reports.origin import Gaps, facts, gaps, settings
from marginbench.benchmarks.reports.panels import Panel, panels
from marginbench.benchmarks.reports.predictions import Prediction, predictions
from marginbench.benchmarks.reports.row_page import RowPage, Shown, fronts, row_page
from marginbench.benchmarks.tables.claims import Finding, findings
from marginbench.benchmarks.tables.leaderboard import rank, suite_name, usual_order
from marginbench.benchmarks.tables.margins import Networks
from marginbench.benchmarks.tables.measures import Network
from marginbench.benchmarks.tables.notes import notes
from marginbench.benchmarks.tables.own_networks import once
from marginbench.benchmarks.tables.pairs import suite_runs
from marginbench.benchmarks.tables.standing import Standings, standings
from marginbench.methods import NORMS, MarginbenchError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What the report is made of, and with."""

    folders: Sequence[Path]
    features: Sequence[str] | None = None
    data_dir: str | Path | None = None


@dataclass(frozen=True)
class SuitePage:
    """A suite."""

    key: str  # beginning of its fingerprint: a name within the page
    name: str
    title: str
    epsilon: Mapping[str, float]
    points: int
    board: Board
    notes: Sequence[str]
    rows: Sequence[RowPage]
    panels: Sequence[Panel]
    networks: Sequence[Panel]  # figures that need kept networks
    lost: str  # which networks were not kept
    facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    gaps: Gaps
    prediction: Prediction


def suite_pages(reading: Reading, choice: Choice) -> tuple[list[SuitePage], list[Panel]]:
    """Every suite that was found, by name, and the figures across suites."""
    why, compared = marks(reading.records.values()), suite_runs(reading)
    known = standings(compared)
    log.info("report: where rows stand")
    suites: dict[str, list[Record]] = defaultdict(list)
    for record in reading.records.values():
        suites[record.identity.suite].append(record)
    every: list[Rows] = []
    with contextlib.suppress(MarginbenchError):  # not a single run ended well: there is still a table of what failed
        every = suites_of(reading, known)
    drawable = {rows.fingerprint: rows for rows in every}
    claimed: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings(compared):
        claimed[finding.suite_fingerprint, finding.method].append(finding)
    names = {fingerprint: suite_name(fingerprint, reading.records.values()) for fingerprint in suites}
    networks = [[Network(one, rows.arrays(one)) for one in once(rows.records)] for rows in every]
    predicted = predictions(Networks(networks))
    pages = [
        _suite_page(names[suite], suites[suite], why, claimed, drawable.get(suite), choice, predicted, known)
        for suite in sorted(suites, key=lambda suite: (names[suite], suite))
    ]
    return pages, panels("suites", every) if len(every) > 1 else []


def _suite_page(
    name: str,
    records: Sequence[Record],
    why: Mapping[str, str],
    claimed: Mapping[tuple[str, str], Sequence[Finding]],
    drawable: Rows | None,
    choice: Choice,
    predicted: Mapping[str, Prediction],
    known: Standings,
) -> SuitePage:
    counted = [record for record in records if not why[record.id]]
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in counted:
        runs[record.method].append(record)
    fingerprint = records[0].identity.suite
    ranked = rank(counted, usual_order(counted), known)
    table = board(ranked, runs, {row: standing for (suite, row), standing in known.items() if suite == fingerprint})
    seen = {} if drawable is None else _examples(drawable, choice)
    lost = "" if drawable is None else Kept(drawable).missing(_looked_into(drawable, choice))
    pages = [
        row_page(
            line,
            runs[line.name],
            table.headings,
            claimed.get((fingerprint, line.name), ()),
            seen.get(line.name, ()),
            fronts(row, table.headings),
        )
        for line, row in zip(table.lines, ranked, strict=True)
    ]
    return SuitePage(
        fingerprint[:8],
        name,
        counted[0].suite.title,
        {str(norm): radius for norm, radius in counted[0].epsilon.items()},
        max(int(row.facts["points"]) for row in ranked),
        table,
        list(notes(ranked, counted)),
        pages,
        [] if drawable is None else [*panels("suite", drawable), *_of_tuning(drawable)],
        [] if drawable is None else _of_networks(drawable, choice),
        lost,
        facts(counted, choice.folders),
        settings(counted[0]),
        gaps(records, why),
        predicted.get(fingerprint, Prediction()),
    )


def _of_tuning(drawable: Rows) -> list[Panel]:
    """None where no row is tuned."""
    tuned = any(runs[0].tuning is not None for runs in drawable.runs.values())
    return [panel for panel in panels("tuning", drawable) if panel.variants] if tuned else []


def _of_networks(drawable: Rows, choice: Choice) -> list[Panel]:
    kept = Kept(drawable, choice.data_dir)
    names = [record.method for record in _looked_into(drawable, choice) if not kept.missing([record])]
    return panels("networks", drawable, picked=names, data_dir=choice.data_dir) if names else []


def _featured(drawable: Rows, choice: Choice) -> list[str]:
    """The rows whose networks are looked into."""
    if choice.features is None:
        return drawable.picked(None)
    return [name for name in choice.features if name in drawable.runs]


def _looked_into(drawable: Rows, choice: Choice) -> list[Record]:
    return [drawable.runs[name][0] for name in _featured(drawable, choice)]


def _examples(drawable: Rows, choice: Choice) -> dict[str, list[Shown]]:
    """By row, in both norms; of networks that were not kept there are none, as the page says."""
    kept = Kept(drawable, choice.data_dir)
    found: dict[str, list[Shown]] = defaultdict(list)
    for record in _looked_into(drawable, choice):
        for norm in filter(drawable.epsilon.__contains__, NORMS):
            with contextlib.suppress(MarginbenchError):
                found[record.method] += [Shown(norm, one) for one in examples(kept, record, norm)]
    return found
