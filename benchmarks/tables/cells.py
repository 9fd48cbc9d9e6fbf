"""A board as a page shows it: columns of cells, and in each cell what is to be set apart. Formats write them."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.record import INAPPLICABLE
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.statistics.paired import LEVEL
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.board import Board, is_baseline
from marginbench.benchmarks.tables.columns import RANK, TO_BASELINE
from marginbench.benchmarks.tables.leaderboard import Row
from marginbench.benchmarks.tables.standing import Standing
from marginbench.methods import Norm

Side = Literal["left", "right"]
MEASURED_NOTHING = "—"
METHOD, POINTS, N, DOUBTS = "method", "points", "n", "doubts"


class Span(NamedTuple):
    """A piece of a cell."""

    text: str
    role: Literal["", "best", "letters", "interval", "error"] = ""  # formats choose how to show them, and whether


Cell = tuple[Span, ...]


@dataclass(frozen=True)
class PageColumn:
    """A column of a page."""

    header: str
    cells: Sequence[Cell]  # a row each
    side: Side = "right"
    ordering: bool = False  # the one that orders the rows, or says where they stand in it

    @property
    def texts(self) -> list[str]:
        """The cells as plain text."""
        return [plain(cell) for cell in self.cells]


def plain(cell: Cell) -> str:
    """The text of a cell."""
    return "".join(map(spaced, cell))


def aligned(cells: Sequence[Cell]) -> list[Cell]:
    """With numbers that end, and letters that begin, below each other; as they are where there are no letters."""
    if not any(span.role == "letters" for cell in cells for span in cell):
        return list(cells)
    numbers = [tuple(span for span in cell if span.role != "letters") for cell in cells]
    letters = ["".join(span.text for span in cell if span.role == "letters") for cell in cells]
    width, wide = max(len(plain(number)) for number in numbers), max(map(len, letters))
    return [
        (Span(" " * (width - len(plain(number)))), *number, Span(f"{text:{wide}}", "letters"))
        for number, text in zip(numbers, letters, strict=True)
    ]


def p_text(p: float) -> str:
    """`0.012`, or `< 0.001`; — where there is none."""
    if math.isnan(p):
        return MEASURED_NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def spaced(span: Span) -> str:
    """The text of a piece; before letters stands a space."""
    return f" {span.text}" if span.role == "letters" else span.text


def page_columns(board: Board) -> list[PageColumn]:
    """The columns of a page: the method, what orders the rows with where they stand, the others, the doubts.

    A fact that all rows share, such as the number of points, is in the legend and no column.
    """
    wanted = board.choice.wanted
    epsilon = board.records[0].epsilon
    made = [PageColumn(METHOD, [(Span(_name(row)),) for row in board.rows], "left")]
    if (ordering := board.ordering) is not None:
        made.append(_measured((ordering,), board, epsilon))
        if any(of and of.best_rank for of in map(board.of, board.rows)):
            ranks = [(Span((of.ranks if of else "") or MEASURED_NOTHING),) for of in map(board.of, board.rows)]
            made.append(PageColumn(RANK, ranks, ordering=True))
        if any(of and not math.isnan(of.difference) for of in map(board.of, board.rows)):
            made.append(PageColumn(TO_BASELINE, [_difference(board, row) for row in board.rows]))
    made += [_measured(ends, board, epsilon) for ends in _shown(board, wanted)]
    made += [
        PageColumn(column.heading(epsilon), [(Span(row.texts[column.name] or MEASURED_NOTHING),) for row in board.rows])
        for column in columns.PARETO
        if column.name in wanted
    ]
    facts = [fact for fact in columns.FACTS if fact.name != METHOD and _is_shown(fact, board, wanted)]
    made += [PageColumn(fact.header, [(Span(str(row.facts[fact.name])),) for row in board.rows]) for fact in facts]
    doubts = [doubts_of(row) for row in board.rows]
    if any(doubts) or wanted & {column.name for column in columns.TEXTS}:  # which hold the errors of runs too
        made.append(PageColumn(DOUBTS, [cell or (Span("none"),) for cell in doubts], "left"))
    return made


def doubts_of(row: Row) -> Cell:
    """Reasons to distrust the row, why it does not count, and how its runs failed; empty where all is well."""
    error = row.texts["error"]
    if row.facts["failed"]:
        ended, detail = f"FAILED {row.facts['failed']}x", f": {error}"
    else:  # the row says why there is none
        ended, detail = INAPPLICABLE * bool(error), error.removeprefix(INAPPLICABLE)
    words = "; ".join(filter(None, (row.texts["doubts"], ended)))
    return (Span(words), *((Span(detail, "error"),) if ended else ())) if words else ()


def _is_shown(fact: Column, board: Board, wanted: set[str]) -> bool:
    """If it was asked for, orders the rows, or differs between them."""
    if fact.name in wanted or fact.name == board.by:
        return True
    return not wanted and fact.on_page and shared(board, fact.name) is None


def shared(board: Board, fact: str) -> str | int | None:
    """What all rows have, None where they differ."""
    found = {row.facts[fact] for row in board.rows}
    return found.pop() if len(found) == 1 else None


def _name(row: Row) -> str:
    return f"{row.facts['method']} (baseline)" if is_baseline(row) else str(row.facts["method"])


def _shown(board: Board, wanted: set[str]) -> Iterator[tuple[Column, ...]]:
    """Groups of columns that share one column of the page: both ends of a margin are an interval."""
    ordering = board.ordering
    usual = columns.paged(board.probes)
    if not board.records[0].epsilon:  # of sentences: no column about pixels
        usual = [c for c in usual if any(not math.isnan(row.mean(c.name)[0]) for row in board.rows)]
    listed = [column for column in columns.numbers(board.probes) if column.name in wanted] if wanted else usual
    shown = [column for column in listed if column != ordering]
    intervals = {column.name: _interval(column) for column in columns.MARGINS}
    groups = itertools.groupby(shown, key=lambda column: intervals.get(column.name, column.name))
    return (tuple(group) for _, group in groups)


def _measured(ends: Sequence[Column], board: Board, epsilon: Mapping[Norm, float]) -> PageColumn:
    ordering = board.ordering
    best = {column.name: _best(column, board.rows) for column in ends}

    def cell(place: int, row: Row) -> Cell:
        if not row.facts["n"]:
            return (Span(MEASURED_NOTHING),)
        of = board.of(row) if ends == (ordering,) else None
        spans = [Span(_text(column, row, of), "best" if best[column.name][place] else "") for column in ends]
        if len(spans) == 1:
            return (*spans, Span(of.letters, "letters")) if of and of.letters else tuple(spans)
        lower, upper = spans
        return Span("["), lower, Span(", "), upper, Span("]")

    header = ends[0].heading(epsilon) if len(ends) == 1 else _interval(ends[0])
    return PageColumn(header, list(itertools.starmap(cell, enumerate(board.rows))), ordering=ends == (ordering,))


def _best(column: Column, rows: Sequence[Row]) -> list[bool]:
    """Of each row, whether it has the best mean of those that count; none has it where half of them share it."""
    means = levels(math.nan if row.mark else row.mean(column.name)[0] for row in rows)
    known = [mean for mean in means if not math.isnan(mean)]
    best = (min if column.ascending else max)(known, default=math.nan)
    apart = 2 * known.count(best) < len(known) or len(set(known)) == len(known) > 1
    return [apart and mean == best for mean in means]


def _text(column: Column, row: Row, of: Standing | None) -> str:
    """Mean and interval: ± where it is symmetric, both ends where it is not, as near to 0 % and 100 %."""
    mean, half = row.mean(column.name)
    if of is None or not math.isfinite(mean) or math.isnan(of.low):
        return column.text(mean, half)
    if of.symmetric:
        return column.text(mean, of.high - of.mean)
    return f"{column.text(mean)} [{column.text(of.low)}, {column.text(of.high)}]"


def _interval(end: Column) -> str:
    return end.header.partition(",")[0]


def _difference(board: Board, row: Row) -> Cell:
    of, column = board.of(row), board.ordering
    if of is None or column is None or is_baseline(row) or math.isnan(of.difference):
        return (Span(MEASURED_NOTHING),)
    middle = Span(f"{column.signed(of.difference)}{'*' * (of.p < LEVEL)}")
    interval = column.between(of.difference_low, of.difference_high)
    return (middle, Span(interval, "interval")) if interval else (middle,)
