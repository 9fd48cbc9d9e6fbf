"""Which records count: one rule, for every table, comparison, claim and baseline."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.record import Record

STALE, OTHER_DATA, OLD_RULES = "stale", "other_data", "old_rules"
MARKS = {
    OLD_RULES: "Measured by an older marginbench, whose numbers mean something else. It is compared with nothing.",
    STALE: "There is a newer version of this row, in code, settings or weights. It is compared with nothing.",
    OTHER_DATA: "Measured on other data than the newest records of this suite. It is compared with nothing: repeat it.",
}
Version = tuple[str, ...]


def precedence(record: Record) -> tuple[bool, str, str]:
    """The larger one counts: done before failed, then the newer one; the id where they ended in the same second."""
    return record.status == "done", record.finished, record.id


def distinct(records: Iterable[Record]) -> list[Record]:
    """Of every run one record, the first by `precedence`, in the order of the rows, versions and repetitions."""
    best: dict[str, Record] = {}
    for record in records:
        best[record.id] = max(best.get(record.id, record), record, key=precedence)
    return sorted(best.values(), key=lambda record: (version(record), record.repetition))


def version(record: Record) -> Version:
    """What the records of one row of a table share: all but the repetition."""
    of = record.identity
    tuned = of.tuning and digest([of.recipe, of.tuning])
    what = (digest(of.fields), of.source or "", of.weights or "", of.answers or "", of.data, tuned or "")
    return record.suite.name, of.suite, record.method, f"{of.schema:06d}", f"{of.revision:06d}", *what


def current(records: Iterable[Record]) -> list[Record]:
    """The records that count, in the order of `distinct`.

    1. Of a run that appears more than once, one record: done before failed, newer before older.
    2. Suites are told apart by their fingerprints: what follows is decided within one suite. There, the newest schema
       of identities.
    3. Of every row, the newest revision of its method.
    4. Of these, one data fingerprint for the whole suite, that of the first record by `precedence`.
    5. Of these, in every row one version of fields, recipe, source, weights and answers, that of the first record by
       `precedence`.

    All others keep their place in the tables, below these and marked, but enter no comparison, claim or baseline.
    """
    records = distinct(records)
    why = marks(records)
    return [record for record in records if not why[record.id]]


def marks(records: Iterable[Record]) -> dict[str, str]:
    """By id, why a record does not count: a key of `MARKS`, or nothing where it does; see `current`."""
    suites: dict[str, list[Record]] = defaultdict(list)
    for record in distinct(records):
        suites[record.identity.suite].append(record)
    return {id_: mark for suite in suites.values() for id_, mark in _of_suite(suite).items()}


def _of_suite(records: Sequence[Record]) -> dict[str, str]:
    rules = max(record.identity.schema for record in records)
    old = {record.id: OLD_RULES for record in records if record.identity.schema < rules}
    records = [record for record in records if record.id not in old]
    revisions: dict[str, int] = defaultdict(int)
    for record in records:
        revisions[record.method] = max(revisions[record.method], record.identity.revision)
    newest = [record for record in records if record.identity.revision == revisions[record.method]]
    data = max(newest, key=precedence).identity.data
    versions: dict[str, Version] = {}
    for record in sorted(newest, key=precedence):
        if record.identity.data == data:
            versions[record.method] = version(record)
    return old | {
        record.id: OTHER_DATA
        if record.identity.data != data
        else STALE * (version(record) != versions.get(record.method))
        for record in records
    }
