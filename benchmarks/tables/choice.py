"""Which rows and columns of a leaderboard are wanted, and in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.paired import MIN_FOR_INTERVAL
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.leaderboard import Row, has
from marginbench.methods.errors import MarginbenchError, ParameterError, suggest


@dataclass(frozen=True)
class Choice:
    """Empty means all. Names are those of csv."""

    by: str | None = None  # the column that orders the rows; default: see `usual_order`
    families: Sequence[str] = ()
    methods: Sequence[str] = ()  # rows by name, or the keys of methods, each of which stands for all its rows
    columns: Sequence[str] = ()
    top: int | None = None  # so many rows with the best means; the baseline stays

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ParameterError("top", self.top, "should be 1 or more")

    @property
    def wanted(self) -> set[str]:
        """The columns asked for, without the intervals that go with them; empty where all are."""
        return set(columns.stems(self.columns))


EVERYTHING = Choice()


def wanted_rows(choice: Choice, records: Iterable[Record]) -> set[tuple[str, str]]:
    """Suite fingerprint and name of the rows that the families and methods of the choice leave.

    Raises:
        ParameterError: a family or a row that no record has, or nothing is left.
    """
    records = list(records)
    families = _known("families", "family", choice.families, {record.about.family for record in records})
    methods = _methods(choice.methods, records)
    left = {
        (record.identity.suite, record.method)
        for record in records
        if (not families or record.about.family in families) and (not methods or record.method in methods)
    }
    if records and not left:  # each name is known, but no row is of both kinds
        raise ParameterError("methods", list(choice.methods), f"no such row in {', '.join(choice.families)}")
    return left


def check_columns(choice: Choice, records: Iterable[Record]) -> None:
    """Complain of columns that no suite of the records has.

    Raises:
        ParameterError: no such column.
    """
    known = columns.names(columns.of_probes(records))
    _known("columns", "column", columns.stems(choice.columns), columns.stems(known))


def check_order(choice: Choice, rows: Sequence[Row], records: Iterable[Record]) -> None:
    """Complain of an order by what was measured of no row.

    Raises:
        ParameterError: so it is; it names what was measured.
    """
    if choice.by is None or any(has(row, choice.by) for row in rows):
        return
    if any(has(row, columns.stem(choice.by)) for row in rows):
        problem = f"intervals take {MIN_FOR_INTERVAL} networks of a row, and none has so many"
        raise ParameterError("by", choice.by, problem)
    names = columns.stems(columns.ordering(columns.of_probes(records)))
    known = [name for name in names if any(has(row, name) for row in rows)]
    if known:
        raise ParameterError("by", choice.by, f"no row of these records has it; they have {', '.join(known)}")


def canonical(name: str) -> str:
    """The spec with defaults left out, as tables write it; the name as it is where it is no spec."""
    from marginbench.methods import create, spec_of  # the registry alone knows all defaults, and imports torch

    try:
        return spec_of(create(name))
    except MarginbenchError:
        return name


def _known(parameter: str, what: str, given: Sequence[str], known: Iterable[str]) -> set[str]:
    known = set(known)
    for name in given:
        if name not in known:
            raise ParameterError(parameter, name, f"no such {what}: {suggest(name, known)}")
    return set(given)


def _methods(given: Sequence[str], records: Sequence[Record]) -> set[str]:
    names = {record.method for record in records}
    keys = {record.identity.method: set[str]() for record in records}
    for record in records:
        keys[record.identity.method].add(record.method)
    found: set[str] = set()
    for name in given:
        if name in names:
            found.add(name)
        elif name in keys:
            found |= keys[name]
        elif (spec := canonical(name)) in names:
            found.add(spec)
        else:
            raise ParameterError("methods", name, f"no such row: {suggest(name, names | set(keys))}")
    return found
