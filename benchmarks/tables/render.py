"""The leaderboard as Markdown, CSV, LaTeX or JSON. CSV and JSON hold every column, the others what fits a page."""

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT, Row, leaderboard, rank, suite_name
from marginbench.benchmarks.tables.notes import notes
from marginbench.benchmarks.tables.text import Side, latex, pipe
from marginbench.methods import Norm
from marginbench.methods.errors import ParameterError, suggest

Format = Literal["md", "csv", "tex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
LEAST_FIRST = (
    "points",
    "n",
    "CLEVER",
    "smoothed",
    "rejecting",
    "cost",
    "margin",
    "certified",
)  # first words of headers
PADDING = 3  # characters beside a cell in a terminal: two spaces and a rule


def render(records: Sequence[Record], form: str, sort: str = DEFAULT_SORT) -> str:
    """Render the leaderboard of the records.

    Raises:
        ParameterError: unknown format or column.
    """
    if form not in FORMATS:
        raise ParameterError("form", form, suggest(form, FORMATS))
    if form == "json":  # pandas' own, with ten digits: NaN is null, as what was not measured, infinity a string
        frame = leaderboard(records, sort)
        infinite = [name for name in frame.select_dtypes("number") if frame[name].isin((math.inf, -math.inf)).any()]
        for name in infinite:
            frame[name] = [str(value) if math.isinf(value) else value for value in frame[name]]
        return frame.to_json(orient="records", indent=1, force_ascii=False, double_precision=10) + "\n"
    rows = rank(records, sort)
    if form == "csv":
        return _csv(rows, columns.of_probes(records))
    if form == "tex":
        return "\n".join(_latex(own, of) for own, of in _by_suite(rows, records))
    return "\n".join(f"## {_title(of, records)}\n\n{_markdown(own, of)}" for own, of in _by_suite(rows, records))


def show(records: Sequence[Record], sort: str = DEFAULT_SORT) -> None:
    """Print the leaderboard: folded to the width of a terminal, as Markdown elsewhere."""
    if not sys.stdout.isatty():
        print(render(records, "md", sort))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)  # names and errors may hold [brackets]
    for rows, own in _by_suite(rank(records, sort), records):
        full = [[cell.replace(", ", ",\n") for cell in line] for line in _page(rows, own)]
        header, *lines = fitting(full, console.width)
        grid = Table(title=_title(own, records), show_lines=True)
        for name, side in zip(header, _sides(header), strict=True):
            grid.add_column(name, justify=side, overflow="fold")
        for line in lines:
            grid.add_row(*line)
        console.print(grid)
        if missing := [name for name in full[0] if name not in header]:
            console.print(f"- Too narrow for {', '.join(missing)}: --format csv has all columns.")
        for note in notes(rows, own):
            console.print(f"- {note}")


def fitting(table: list[list[str]], width: int) -> list[list[str]]:
    """The table, header first, without the least interesting columns, as many as must go for the rest to fit."""
    for word in ("", *LEAST_FIRST):
        kept = [i for i, name in enumerate(table[0]) if name.split()[0] != word]
        table = [[line[i] for i in kept] for line in table]
        upright = list(zip(*table, strict=True))
        pieces = [[*head.split(), *"\n".join(cells).split("\n")] for head, *cells in upright]
        pieces[-1] = " ".join(upright[-1]).split()  # doubts and errors are broken between words
        if sum(PADDING + max(map(len, column)) for column in pieces) < width:
            break
    return table


def _by_suite(rows: Sequence[Row], records: Sequence[Record]) -> Iterator[tuple[list[Row], list[Record]]]:
    for fingerprint, group in itertools.groupby(rows, key=lambda row: row.facts["suite_fingerprint"]):
        yield list(group), [record for record in records if record.identity.suite == fingerprint]


def _title(own: Sequence[Record], records: Sequence[Record]) -> str:
    return f"{suite_name(own[0].identity.suite, records)}: {own[0].suite.title}"


def _csv(rows: Sequence[Row], probes: Sequence[Column]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns.names(probes))
    writer.writerows(map(_blank, row.values(probes).values()) for row in rows)
    return text.getvalue()


def _blank(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _markdown(rows: Sequence[Row], records: Sequence[Record]) -> str:
    table = page(rows, records)
    listed = "\n".join(f"- {note}" for note in notes(rows, records))
    return f"{table}\n\n{listed}\n"


def page(rows: Sequence[Row], records: Sequence[Record]) -> str:
    """Rows of one suite as a Markdown table.

    Args:
        records: of that suite: they say which columns there are, and the radii.
    """
    header, *lines = _page(rows, records)
    return pipe(header, lines, _sides(header))


def _latex(rows: Sequence[Row], records: Sequence[Record]) -> str:
    header, *lines = _page(rows, records)
    return latex(header, lines, _sides(header), " ".join(notes(rows, records)))


def _page(rows: Sequence[Row], records: Sequence[Record]) -> list[list[str]]:
    """Header and cells of a page, as text."""
    epsilon = records[0].epsilon
    shown = list(_merged(columns.paged(columns.of_probes(records))))
    facts = [column for column in columns.FACTS if column.on_page]
    (doubts,) = (column for column in columns.TEXTS if column.on_page)
    heads = [*(column.header for column in facts), *(_heading(ends, epsilon) for ends in shown), doubts.header]
    table = [heads]
    for row in rows:
        cells = [_cell(row, ends) if row.facts["n"] else "—" for ends in shown]
        failed = f"FAILED {row.facts['failed']}x: {row.texts['error']}" if row.facts["failed"] else ""
        doubt = "; ".join(filter(None, (row.texts["doubts"], failed))) or "none"
        table.append([*(str(row.facts[column.name]) for column in facts), *cells, doubt])
    return table


def _merged(shown: Sequence[Column]) -> Iterator[tuple[Column, ...]]:
    """Both ends of a margin make one column of a page: an interval."""
    intervals = {column.name: _interval(column) for column in columns.MARGINS}
    groups = itertools.groupby(shown, key=lambda column: intervals.get(column.name, column.name))
    return (tuple(group) for _, group in groups)


def _interval(end: Column) -> str:
    return end.header.partition(",")[0]


def _heading(ends: Sequence[Column], epsilon: Mapping[Norm, float]) -> str:
    return ends[0].heading(epsilon) if len(ends) == 1 else _interval(ends[0])


def _cell(row: Row, ends: Sequence[Column]) -> str:
    texts = [column.text(*row.mean(column.name)) for column in ends]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _sides(header: Sequence[str]) -> list[Side]:
    last = len(header) - 1
    return ["left" if i in (0, last) else "right" for i in range(len(header))]
