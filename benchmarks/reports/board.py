"""The leaderboard of one suite as the page shows it: columns, and rows of cells with their intervals as bars."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.current import precedence
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.cells import p_text
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import Row, usual_order
from marginbench.benchmarks.tables.standing import Standing


@dataclass(frozen=True)
class Heading:
    """A column of numbers."""

    name: str
    text: str  # with the suite's radii
    norm: str  # or nothing
    meaning: str
    ascending: bool  # small is good
    shown: bool  # at first; readers may show others
    grouped: bool  # its rows have groups


@dataclass(frozen=True)
class Bar:
    """An interval, drawn: places in per cent of the width of a cell."""

    start: float
    width: float
    mean: float


@dataclass(frozen=True)
class Cell:
    """Mean of a row in a column."""

    value: float | None  # None: not measured
    text: str
    low: float | None = None
    high: float | None = None
    bar: Bar | None = None
    letters: str = ""
    group: int | None = None
    rank: str = ""  # its interval
    words: str = ""  # all that is known, in a sentence


@dataclass(frozen=True)
class Doubt:
    """A reason to distrust a row."""

    name: str
    runs: int  # in how many it was seen
    seen: tuple[str, ...]
    explanation: str

    @property
    def words(self) -> str:
        return "\n".join([*filter(None, [self.explanation]), *(f"Seen: {text}" for text in self.seen)])


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    family: str
    title: str
    n: int
    failed: int
    error: str
    cells: Mapping[str, Cell]
    doubts: Sequence[Doubt]


@dataclass(frozen=True)
class Board:
    """A whole table."""

    headings: Sequence[Heading]
    lines: Sequence[Line]
    sort: str  # the column by which they are ordered
    baseline: str
    picked: Sequence[str]  # at first: the baseline, and the best
    families: Sequence[str]

    @property
    def summary(self) -> str:
        """What can be said of the best."""
        heading = next((one for one in self.headings if one.name == self.sort), None)
        if heading is None or not heading.grouped:
            return "Which differences are real is not known: that takes three networks of each row."
        cells = {line.name: line.cells[self.sort] for line in self.lines}
        first = [name for name, cell in cells.items() if cell.group == 1]
        if len(first) == 1:
            whole = all(cell.group is not None or cell.value is None for cell in cells.values())
            return f"By {heading.text}, {first[0]} is ahead of all others{'' if whole else ' that can be compared'}."
        return f"By {heading.text}, the first {len(first)} rows cannot be told apart."


def board(
    rows: Sequence[Row], runs: Mapping[str, Sequence[Record]], standings: Mapping[str, Mapping[str, Standing]]
) -> Board:
    """The table of the rows that count.

    Args:
        rows: of one suite, in the order of the leaderboard.
        runs: of each row its records.
        standings: where rows stand, by row and column; empty where that is not known.
    """
    records = [record for own in runs.values() for record in own]
    probes = columns.of_probes(records)
    every = [*columns.measured(probes), *columns.SURELY_BETTER.values()]
    measured = [column for column in every if any(not math.isnan(row.mean(column.name)[0]) for row in rows)]
    on_page = {column.name for column in columns.paged(())}
    at_first = on_page | set(columns.SURELY_BETTER)
    epsilon = records[0].epsilon
    cells = {column.name: _cells(column, rows, standings) for column in measured}
    headings = [
        Heading(
            column.name,
            column.heading(epsilon),
            columns.norm_of(column.name),
            column.meaning,
            column.ascending,
            column.name in at_first,
            any(cell.group is not None for cell in cells[column.name].values()),
        )
        for column in sorted(measured, key=lambda column: column.name not in at_first)
    ]
    lines = [
        _line(row, runs[str(row.facts["method"])], {name: own[str(row.facts["method"])] for name, own in cells.items()})
        for row in rows
    ]
    best = next((line.name for line in lines if line.name != BASELINE and line.n), None)
    picked = [name for name in (BASELINE, best) if name is not None and name in runs]
    by = usual_order(records)
    return Board(headings, lines, by, BASELINE, picked, sorted({line.family for line in lines}))


def _line(row: Row, runs: Sequence[Record], cells: Mapping[str, Cell]) -> Line:
    newest = max(runs, key=precedence)
    return Line(
        newest.method,
        newest.about.family,
        newest.about.title,
        int(row.facts["n"]),
        int(row.facts["failed"]),
        row.texts["error"],
        cells,
        doubts(runs),
    )


def doubts(runs: Iterable[Record]) -> list[Doubt]:
    """The doubts of a row, with what was seen and what they mean in the newest words."""
    runs = sorted(runs, key=precedence)
    counts = Counter(name for record in runs for name in record.doubts)
    explained = {name: text for record in runs for name, text in record.explanations.items()}
    return [
        Doubt(
            name,
            count,
            tuple(dict.fromkeys(record.doubts[name] for record in runs if name in record.doubts)),
            explained.get(name, ""),
        )
        for name, count in sorted(counts.items())
    ]


class _Known(NamedTuple):
    """What is known of a row in a column."""

    mean: float
    low: float | None = None  # of its interval
    high: float | None = None
    standing: Standing | None = None


def _cells(column: Column, rows: Sequence[Row], standings: Mapping[str, Mapping[str, Standing]]) -> dict[str, Cell]:
    """Of every row; bars have one scale in all of a column."""
    known = {str(row.facts["method"]): _known(row, column, standings) for row in rows}
    ends = [end for own in known.values() for end in own[:3] if end is not None and math.isfinite(end)]
    scale = (min(ends), max(ends)) if ends else (0.0, 0.0)
    return {row: _cell(column, own, scale) for row, own in known.items()}


def _known(row: Row, column: Column, standings: Mapping[str, Mapping[str, Standing]]) -> _Known:
    mean, half = row.mean(column.name)
    standing = standings.get(str(row.facts["method"]), {}).get(column.name)
    if standing is not None:
        return _Known(mean, _number(standing.low), _number(standing.high), standing)
    if half is None or not math.isfinite(mean):
        return _Known(mean)
    return _Known(mean, mean - half, mean + half)


def _cell(column: Column, known: _Known, scale: tuple[float, float]) -> Cell:
    mean, low, high, standing = known
    if math.isnan(mean):
        return Cell(None, "—", words="not measured")
    text = column.text(mean)
    interval = "" if low is None or high is None else f", 95 % interval {column.text(low)} to {column.text(high)}"
    cell = Cell(mean, text, low, high, _bar(known, scale), words=text + interval)
    if standing is None or standing.group is None:
        return cell
    words = "; ".join([cell.words, *_in_words(column, standing)])
    return replace(cell, letters=standing.letters, group=standing.group, rank=standing.ranks, words=words)


def _in_words(column: Column, standing: Standing) -> Iterable[str]:
    yield f"rank {standing.ranks}, group {standing.group}"
    if not math.isnan(standing.difference):
        ends = column.between(standing.difference_low, standing.difference_high)
        chance = "" if math.isnan(standing.p) else f", p {'= ' * (standing.p >= 0.001)}{p_text(standing.p)}"
        yield f"{column.signed(standing.difference)}{ends} to {BASELINE}{chance}"


def _bar(known: _Known, scale: tuple[float, float]) -> Bar | None:
    mean, low, high, _ = known
    least, most = scale
    if most <= least or not math.isfinite(mean):
        return None

    def place(value: float) -> float:
        return round(100 * (value - least) / (most - least), 1)

    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Bar(place(mean), 0.0, place(mean))
    return Bar(place(low), round(place(high) - place(low), 1), place(mean))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
