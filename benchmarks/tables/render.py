"""The leaderboard as Markdown, CSV, LaTeX, HTML or JSON. CSV and JSON hold all columns, the others what fits a page."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.board import Board, boards
from marginbench.benchmarks.tables.cells import DOUBTS, PageColumn, doubts_of, page_columns, plain
from marginbench.benchmarks.tables.choice import EVERYTHING, Choice
from marginbench.benchmarks.tables.frame import as_frame, names, values
from marginbench.benchmarks.tables.notes import legend, notes
from marginbench.benchmarks.tables.render_across import AcrossPage, across_page
from marginbench.benchmarks.tables.standing import Standings
from marginbench.benchmarks.tables.text import html_page, html_table, latex, markdown
from marginbench.methods.errors import ParameterError, suggest

Format = Literal["md", "csv", "tex", "html", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


def render(records: Sequence[Record], form: str, choice: Choice = EVERYTHING, known: Standings | None = None) -> str:
    """Render the leaderboard of the records: a board for each suite, and on pages one of ranks across them.

    Args:
        known: where the rows stand in the column `choice.by`, see `where_rows_stand`. Without it rows are ordered by
            their means, and nothing is said about which of them differ.

    Raises:
        ParameterError: unknown format, column, family or row.
    """
    if form not in FORMATS:
        raise ParameterError("form", form, suggest(form, FORMATS))
    made = boards(records, choice, known or {})
    if form == "csv":
        return _csv(made, records)
    if form == "json":
        return _json(made, records)
    if form == "tex":
        return "\n".join(map(_latex, made))
    together = across_page(made, records)
    if form == "html":
        last = [html_table(together.title, together.table, together.notes)] if together else []
        return html_page(", ".join(board.title for board in made), [*map(_html, made), *last])
    pages = [f"## {board.title}\n\n{_markdown(board)}" for board in made]
    return "\n".join([*pages, *([across_markdown(together)] if together else [])])


def across_markdown(page: AcrossPage) -> str:
    """A section of a page."""
    return f"## {page.title}\n\n{markdown(page.table)}\n\n" + "".join(f"- {note}\n" for note in page.notes)


def _markdown(board: Board) -> str:
    table = page_columns(board)
    return f"{markdown(table)}\n\n" + "".join(f"- {note}\n" for note in _all_notes(board, table))


def _all_notes(board: Board, table: Sequence[PageColumn]) -> list[str]:
    headers = [column.header for column in table]
    return [*legend(board, headers), *notes(board.rows, board.records, board.counted)]


def _latex(board: Board) -> str:
    table = page_columns(board)
    headers = [column.header for column in table]
    explained = {name for record in board.records for name in record.doubts} if DOUBTS in headers else set()
    every = list(notes(board.rows, board.records, board.counted))
    doubts = [note for note in every if note.partition(":")[0] in explained]
    caption = " ".join([f"{board.title}.", *legend(board, headers), *doubts])
    label = board.records[0].suite.name
    errors = [f"{row.facts['method']}: {plain(doubts_of(row))}" for row in board.rows if row.facts["failed"]]
    return latex(table, caption, label, [*errors, *(note for note in every if note not in doubts)])


def _html(board: Board) -> str:
    table = page_columns(board)
    return html_table(board.title, table, _all_notes(board, table))


def _csv(made: Sequence[Board], records: Sequence[Record]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names(made, records), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_blank, values(made, records)))
    return text.getvalue()


def _blank(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _json(made: Sequence[Board], records: Sequence[Record]) -> str:
    """Pandas' own, with ten digits: NaN is null, as what was not measured, infinity a string."""
    frame = as_frame(made, records)
    infinite = [name for name in frame.select_dtypes("number") if frame[name].isin((math.inf, -math.inf)).any()]
    for name in infinite:
        frame[name] = [str(value) if math.isinf(value) else value for value in frame[name]]
    return frame.to_json(orient="records", indent=1, force_ascii=False, double_precision=10) + "\n"
