"""The leaderboard as values: a pandas frame for notebooks, and what csv and json hold."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.source import Source, reading_of
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.board import Board, boards, where_rows_stand
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.standing import Standings

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(source: Source = RESULTS, by: str | None = None, *, strict: bool = False) -> "pd.DataFrame":
    """One row per suite and method, means over seeds with 95 % intervals (`*_ci95`, half widths) from n = 3 on.

    The last columns say where rows stand in each measured one: `NAME_group`, 1 is the best, `NAME_letters`, which rows
    share that cannot be told apart, their interval of ranks, that of the mean and their difference to `ce`; see
    `columns.STANDING`. Rows are ordered by group and then by name, and follow by their means where they have no group,
    as below three seeds. Of records alone, without their arrays, columns that are known point by point have no groups,
    ranks and tests. Below them stand, marked in `doubts`, the rows that do not count; see `records.current`.
    `cost` is the training time divided by the median of that of `ce` on the same machine.

    Args:
        source: see `reading_of`.
        by: a column; the best come first, or the narrowest of its intervals. Default: robust accuracy in L2, and of
            sentences clean accuracy.
        strict: raise where a record cannot be read, instead of a warning, and check the files of all arrays.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that cannot be read.
        ParameterError: `source` is something else, or `by` is not a column, or one that was measured of no row.
    """
    reading = reading_of(source, strict=strict)
    return ranked_frame(list(reading.records.values()), by, where_rows_stand(reading))


def ranked_frame(records: Sequence[Record], by: str | None = None, known: Standings | None = None) -> "pd.DataFrame":
    """The frame of `leaderboard`, of records whose standing is known."""
    return as_frame(boards(records, Choice(by), known or {}), records)


def as_frame(made: Sequence[Board], records: Sequence[Record]) -> "pd.DataFrame":
    """The rows of all boards."""
    import pandas as pd

    return pd.DataFrame(values(made, records), columns=names(made, records))


def names(made: Sequence[Board], records: Sequence[Record]) -> list[str]:
    """Of the columns: those of the records that were chosen, then where rows stand in those that are measured."""
    every = columns.names(columns.of_probes(records))
    if not made:
        return every
    choice = made[0].choice
    if choice.columns:
        wanted = choice.wanted | {"suite", "suite_fingerprint", "method", columns.stem(made[0].by)}
        every = [name for name in every if columns.stem(name) in wanted]
    known = {name for board in made for of in board.standings.values() for name in of}
    return [
        *every,
        *(
            f"{name}_{end}"
            for name in every
            if name in known and name not in columns.SURELY_BETTER
            for end in columns.STANDING
        ),
    ]


def values(made: Sequence[Board], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """A row each, by name of the column, with more columns than were chosen. NaN and None: not measured, not known."""
    probes = columns.of_probes(records)
    for board in made:
        for row in board.rows:
            of = {} if row.mark else board.standings.get(str(row.facts["method"]), {})
            stands = {column.name: of.get(column.name) for column in columns.measured(probes)}
            ends = {f"{name}_{end}": getattr(at, end, None) for name, at in stands.items() for end in columns.STANDING}
            yield {**row.values(probes), **ends}
