"""The leaderboard as a terminal shows it: what fits its width, the rows that matter, and how to see the rest."""

import math
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.board import Board, boards, is_baseline, where_rows_stand
from marginbench.benchmarks.tables.cells import (
    DOUBTS,
    METHOD,
    Cell,
    PageColumn,
    Span,
    aligned,
    doubts_of,
    page_columns,
    plain,
    spaced,
)
from marginbench.benchmarks.tables.choice import EVERYTHING, Choice
from marginbench.benchmarks.tables.columns import RANK, TO_BASELINE
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT, Row
from marginbench.benchmarks.tables.notes import legend, notes
from marginbench.benchmarks.tables.render import across_markdown, render
from marginbench.benchmarks.tables.render_across import across_page
from marginbench.benchmarks.tables.standing import Standings
from marginbench.methods.words import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LEAST_FIRST = (
    "points",
    "n",
    "CLEVER",
    "smoothed",
    "rejecting",
    "cost",
    "margin",
    "certified",
    "robust",
    "clean",
    "to",
)  # first words of headers
ALWAYS = 2  # columns: the method and what orders the rows
PADDING = 2  # characters between two columns
FIRST, BEST, LAST = 10, 5, 3  # rows that are shown of a long table; the best by their means
SHORT = 20  # rows that are shown whole
MARK = "†"  # of a row that has doubts
DETAILS = ("interval", "error")  # pieces of cells that are left out
NAMES = 6  # rows that are named beside a doubt
TEXT_WIDTH = 120  # characters of a line of text, however wide the terminal
NAME_WIDTH = 28  # characters, after which the name of a row is broken
# of Okabe and Ito, which the colour-blind tell apart; readable on black and on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class View:
    """How much of a board is shown, and how the rest is."""

    asked: Collection[str] = ()  # rows that are always shown
    all_notes: bool = False
    command: str = ""  # that shows the rest, where it is not the one that was called


def show(
    records: Sequence[Record],
    choice: Choice = EVERYTHING,
    known: Standings | None = None,
    view: View = View(),
) -> None:
    """Print the leaderboard: what fits a terminal, the whole as Markdown elsewhere.

    Raises:
        ParameterError: unknown column, family or row.
    """
    if not sys.stdout.isatty():
        print(render(records, "md", choice, known))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)  # names and errors may hold [brackets]
    made = boards(records, choice, known or {})
    for board in made:
        _print(board, console, view)
    if together := across_page(made, records):
        show_page(across_markdown(together))


def show_page(text: str) -> None:
    """Print a page of Markdown: laid out to the width of a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    # names and errors mean these as they are; two asterisks are ours
    Console().print(Markdown(re.sub(r"[<_\[\]]|(?<!\*)\*(?!\*)", r"\\\g<0>", text)))


def show_after(records: Sequence[Record], runs: Path, asked: Collection[str]) -> None:
    """What a command that made records prints at its end.

    Args:
        runs: folder of the records.
        asked: rows that are always shown.
    """
    show(records, EVERYTHING, *_of_run(records, runs, asked))


def text_after(records: Sequence[Record], runs: Path, width: int) -> str:
    """What a terminal of this width shows between the runs of a command."""
    from rich.console import Console

    known, view = _of_run(records, runs, ())
    console = Console(file=StringIO(), width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for board in boards(records, EVERYTHING, known):
            _print(board, console, view)
    return captured.get().rstrip()


def _of_run(records: Sequence[Record], runs: Path, asked: Collection[str]) -> tuple[Standings, View]:
    """How rows stand in the column that orders them, and how much is shown of them."""
    known = where_rows_stand(Reading({runs / f"{record.id}.json": record for record in records}, {}), [DEFAULT_SORT])
    return known, View(asked, command=f"marginbench leaderboard {quote(str(runs.parent))}")


def _print(board: Board, console: "Console", view: View) -> None:
    places = shown_rows(board, view.asked)
    shown = [place for place in places if place is not None]
    asked = board.choice.wanted & {column.name for column in columns.TEXTS}
    whole = [_brief(column, board, shown) for column in page_columns(board) if asked or column.header != DOUBTS]
    fits = fitting(whole, console.width, bool(board.choice.columns))
    text_width = min(console.width, TEXT_WIDTH)
    console.print(board.title, style="bold")
    console.print(_grid(board, fits, places))
    for line in (*_doubts(board), *legend(board, [column.header for column in fits])):
        console.print(line, width=text_width)
    every = list(notes(board.rows, board.records, board.counted))
    if view.all_notes:
        for note in every:
            console.print(f"- {note}", width=text_width)
    hidden = len(board.rows) - len(shown)
    missing = [column.header for column in whole if column not in fits]
    if hint := "; ".join(_hints(board, hidden, missing, 0 if view.all_notes else len(every))):
        console.print(
            f"Not shown: {hint}." + (f" These are options of: {view.command}" if view.command else ""), width=text_width
        )
    console.print()


def _doubts(board: Board) -> Iterator[str]:
    """What is doubtful, and the rows of which it is true; those that are not shown too."""
    rows: dict[str, list[str]] = {}
    for row in board.rows:
        if cell := doubts_of(row):
            rows.setdefault(plain(cell), []).append(str(row.facts["method"]))
    for doubt, names in rows.items():
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"{MARK} {', '.join(names[:NAMES])}{more}: {doubt}"


def _hints(board: Board, hidden: int, missing: Sequence[str], other_notes: int) -> Iterator[str]:
    """What is not shown, and the option that shows it."""
    if hidden:
        yield f"{counted(hidden, 'row')} (--top {len(board.rows) + board.below})"
    if missing:
        yield f"{', '.join(missing)} (a wider terminal, --columns, or --format csv)"
    if other_notes:
        yield f"{counted(other_notes, 'note')} (--notes)"


def shown_rows(board: Board, asked: Collection[str]) -> list[int | None]:
    """Places of the rows to show, with None where some are left out.

    A table that is short, or that was asked for by `--top` or `--methods`, is shown whole; of others the first and the
    last of the rows that were measured and count, the best group unless it is long, the best means, the baseline, and
    what was asked for. No row is left out alone.
    """
    count = len(board.rows)
    if count <= SHORT or board.choice.top is not None or board.choice.methods:
        return list(range(count))
    measured = [place for place, row in enumerate(board.rows) if row.facts["n"] and not row.mark]
    best_group = sum(of is not None and of.group == 1 for of in map(board.of, board.rows))
    first = best_group if FIRST < best_group <= SHORT else FIRST
    matter = {*measured[:first], *measured[-LAST:], *_best(board, measured)}
    shown = [
        place in matter or is_baseline(row) or row.facts["method"] in asked for place, row in enumerate(board.rows)
    ]
    for place in range(1, count - 1):
        shown[place] = shown[place] or (shown[place - 1] and shown[place + 1])
    places: list[int | None] = []
    for place, yes in enumerate(shown):
        if yes:
            places.append(place)
        elif not places or places[-1] is not None:
            places.append(None)
    return places


def _best(board: Board, places: Sequence[int]) -> list[int]:
    """The rows with the best means in the column that orders them; by name, they may stand anywhere in their group."""
    column = board.ordering
    if column is None:
        return []
    means = levels(board.rows[place].mean(column.name)[0] for place in places)
    known = {place: mean for place, mean in zip(places, means, strict=True) if not math.isnan(mean)}
    return sorted(known, key=lambda place: known[place], reverse=not column.ascending)[:BEST]


def fitting(table: Sequence[PageColumn], width: int, in_order: bool = False) -> list[PageColumn]:
    """The columns that fit: without the least interesting ones, as many as must go.

    Args:
        in_order: the columns were asked for: the last ones go first.
    """
    kept = list(table)
    if in_order:
        order = [column for column in reversed(kept[ALWAYS:]) if column.header not in (RANK, TO_BASELINE)]
    else:
        order = [
            column for word in LEAST_FIRST for column in reversed(kept[ALWAYS:]) if column.header.split()[0] == word
        ]
    for column in order:
        if _width(kept) <= width:
            break
        kept = [other for other in kept if other is not column]
    return kept


def _width(table: Sequence[PageColumn]) -> int:
    """Characters that a row takes."""
    return sum(map(_column_width, table)) + PADDING * (len(table) - 1)


def _column_width(column: PageColumn) -> int:
    """With headers broken between words."""
    cells = max(map(len, column.texts), default=0)
    return max(*map(len, column.header.split()), min(cells, NAME_WIDTH) if column.header == METHOD else cells)


def _brief(column: PageColumn, board: Board, shown: Sequence[int]) -> PageColumn:
    """Short, of the rows shown, with letters of one width, and a mark at the names of rows that have doubts."""
    cells = [tuple(span for span in column.cells[place] if span.role not in DETAILS) for place in shown]
    if column.header == METHOD:
        marks = [(Span(f" {MARK}"),) * bool(doubts_of(board.rows[place])) for place in shown]
        cells = [cell + mark for cell, mark in zip(cells, marks, strict=True)]
    return replace(column, cells=aligned(cells))


def _grid(board: Board, table: Sequence[PageColumn], places: Sequence[int | None]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, PADDING - 1), show_edge=False)
    for column in table:
        width = _column_width(column)
        grid.add_column(column.header, justify=column.side, overflow="fold", vertical="bottom", width=width)
    shown = [place for place in places if place is not None]
    for i, place in enumerate(places):
        if place is None:
            left_out = _next(places[i:], len(board.rows)) - _next(places[:i][::-1], -1) - 1
            grid.add_row(f"⋮ {left_out} more", style="dim")
        else:
            row = board.rows[place]
            cells = [_cell(column, column.cells[shown.index(place)], _colour(board, row)) for column in table]
            grid.add_row(*cells, style="bold" if is_baseline(row) else "")
    return grid


def _next(places: Sequence[int | None], otherwise: int) -> int:
    return next((place for place in places if place is not None), otherwise)


def _colour(board: Board, row: Row) -> str:
    """Of the row's group; neighbours differ."""
    of = board.of(row)
    return COLOURS[(of.group - 1) % len(COLOURS)] if of and of.group else ""


def _cell(column: PageColumn, cell: Cell, colour: str) -> "Text":
    """Letters say what the colours say."""
    from rich.text import Text

    padded = any(span.role == "letters" for span in cell)  # already: rich would strip what stands on the right
    text = Text(justify="left" if padded else None)
    for span in cell:
        of_group = colour if column.ordering else ""
        text.append(spaced(span), f"bold {of_group}" if span.role == "best" else of_group)
    return text
