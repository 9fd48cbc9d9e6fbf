"""Ranks across suites as a page: the rows that all suites have, and what so many suites could show."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.across import NAMES, Across, across
from marginbench.benchmarks.tables.board import Board
from marginbench.benchmarks.tables.cells import METHOD, PageColumn, Span, p_text
from marginbench.methods.words import few


@dataclass(frozen=True)
class AcrossPage:
    """A table with its notes."""

    title: str
    table: Sequence[PageColumn]
    notes: Sequence[str]


def across_page(made: Sequence[Board], records: Iterable[Record]) -> AcrossPage | None:
    """The rows of the boards across their suites; None where fewer than two suites share two rows in their column.

    All rows that every suite has are ranked; those that the boards leave out are not shown.
    """
    ordering = made[0].ordering if made else None
    if ordering is None or len(made) < 2 or ordering.name in columns.SURELY_BETTER:
        return None
    found = across(records, ordering.name, [board.records[0].identity.suite for board in made])
    if found is None:
        return None
    chosen = {str(row.facts["method"]) for board in made for row in board.rows}
    kept = [place for place, row in enumerate(found.rows) if row in chosen]
    what = ordering.header.partition("{")[0].strip()
    return AcrossPage(
        f"Across {len(found.suites)} suites: ranks by {what}", _table(found, kept), [*_notes(found), *found.cautions]
    )


def _table(found: Across, kept: Sequence[int]) -> list[PageColumn]:
    of, letters = found.ranking, found.letters
    average = [(Span(f"{of.average_ranks[row]:.2f}"), Span(letters[row], "letters")) for row in kept]
    return [
        PageColumn(METHOD, [(Span(found.rows[row]),) for row in kept], "left"),
        PageColumn("average rank", average, ordering=True),
        *(
            PageColumn(suite, [(Span(f"{of.ranks[block, row]:g}"),) for row in kept])
            for block, suite in enumerate(found.suites)
        ),
    ]


def _notes(found: Across) -> Iterable[str]:
    of = found.ranking
    yield (
        f"Ranks of the means over seeds among the {len(found.rows)} rows that all suites have, 1 for the best. Rows"
        " that share a letter cannot be told apart: Wilcoxon's signed-rank test over suites, all pairs, Holm's"
        " correction."
    )
    yield of.power
    if not math.isnan(of.friedman_p):
        sign = "" if of.friedman_p < 0.001 else "= "
        yield f"That all rows are equal: p {sign}{p_text(of.friedman_p)} (Friedman's test)."
    if found.left_out:
        yield f"Left out, since some suite lacks them: {few(found.left_out, NAMES)}."
