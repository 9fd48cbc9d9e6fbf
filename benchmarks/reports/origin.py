"""Where the numbers of a suite come from, and what is missing from them."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marginbench.benchmarks.records.current import MARKS
from marginbench.benchmarks.records.record import Environment, Record, dotted
from marginbench.benchmarks.suites.schema import WHICH, load_suite, suite_names
from marginbench.benchmarks.tables.notes import versions
from marginbench.methods import MarginbenchError
from marginbench.methods.words import counted


@dataclass(frozen=True)
class Old:
    """Records of a row that are compared with nothing."""

    row: str
    mark: str
    meaning: str
    runs: int
    revision: int
    finished: str


@dataclass(frozen=True)
class Gaps:
    """What is missing, failed or stale."""

    failed: Sequence[tuple[str, int, str]]  # row, seed, error
    fewer: Sequence[tuple[str, int]]  # rows with fewer networks than others, and how many
    absent: Sequence[str]  # rows of the suite without any record
    old: Sequence[Old]
    most: int  # networks of the others

    @property
    def none(self) -> bool:
        return not self.words

    @property
    def words(self) -> list[str]:
        """What is amiss, in a few words each."""
        older = sum(old.runs for old in self.old)
        counts = (
            (len(self.failed), "run failed", "runs failed"),
            (len(self.fewer), "row has fewer networks than the others", "rows have fewer networks than the others"),
            (len(self.absent), "row of the suite was not run", "rows of the suite were not run"),
            (older, "older record is compared with nothing", "older records are compared with nothing"),
        )
        return [counted(*one) for one in counts if one[0]]


def facts(records: Sequence[Record], folders: Sequence[Path]) -> list[tuple[str, str]]:
    """What was run, in pairs of a word and its value."""
    newest = max(records, key=lambda record: record.finished)
    dates = sorted(record.finished for record in records)
    evaluated, trained = (
        [*filter(None, own)] for own in zip(*((r.environment, r.trained) for r in records), strict=True)
    )
    found = [
        ("Suite", f"{newest.suite.name}: {newest.suite.title}"),
        ("Command", command(newest.suite.settings, records)),
        ("Folders", ", ".join(map(str, folders))),
        ("Finished", f"{_moment(dates[0])} to {_moment(dates[-1])}"),
        ("Evaluated on", _distinct(_machine(place) for place in evaluated)),
        ("Trained on", _distinct(_machine(place) for place in trained)),
        ("Versions", ", ".join(versions([*evaluated, *trained]))),
        ("Commit", _distinct(str(place.commit) for place in evaluated)),
        ("Fingerprint of the suite", newest.identity.suite),
        ("Fingerprint of the data", _distinct(record.identity.data for record in records)),
        ("Check it", shlex.join(["marginbench", "verify", *map(str, folders)])),
    ]
    return [(word, value) for word, value in found if value]


def settings(record: Record) -> list[tuple[str, str]]:
    """All settings of the suite by dotted key, without those that were left out."""
    shown = dotted({key: value for key, value in record.suite.settings.items() if key not in ("name", "title")})
    return [(key, _text(value)) for key, value in shown.items() if value is not None]


def command(of: Mapping[str, Any], records: Sequence[Record]) -> str:
    """What makes these records again: the suite, what was changed in it, its rows and seeds."""
    base = str(of["name"]).partition("+")[0]
    words = ["marginbench", "run-all", "--suite", base if base in suite_names() else f"{base}.toml"]
    methods = list(dict.fromkeys(record.method for record in records))
    seeds = max(record.repetition for record in records) + 1
    if base in suite_names():
        suite = load_suite(base)
        defaults = dotted(suite.model_dump(mode="json", exclude={"name", "title", *WHICH}))
        given = dotted({key: value for key, value in of.items() if key not in ("name", "title")})
        for key in sorted({*defaults, *given}):
            if defaults.get(key) != given.get(key):
                words += ["--set", f"{key}={_text(given.get(key))}"]
        if set(methods) == set(suite.rows):
            methods = []
    words += ["--methods", ",".join(methods)] if methods else []
    return shlex.join([*words, "--seeds", str(seeds)])


def gaps(records: Sequence[Record], marks: Mapping[str, str]) -> Gaps:
    """What is missing, failed or stale among all records of a suite.

    Args:
        marks: why a record does not count, by id; see `records.current.marks`.
    """
    current = [record for record in records if not marks[record.id]]
    done: dict[str, int] = defaultdict(int)
    for record in current:
        done[record.method] += record.status == "done"
    most = max(done.values(), default=0)
    return Gaps(
        [(r.method, r.repetition, r.error or "") for r in current if r.status == "failed"],
        [(row, n) for row, n in sorted(done.items()) if n < most],
        _absent(records),
        _old(records, marks),
        most,
    )


def _absent(records: Sequence[Record]) -> list[str]:
    """Rows that a built-in suite has and these records do not."""
    name = records[0].suite.name
    if name not in suite_names():
        return []
    try:
        wanted = load_suite(name).rows
    except MarginbenchError:
        return []
    seen = {record.method for record in records}
    return [row for row in wanted if row not in seen]


def _old(records: Sequence[Record], marks: Mapping[str, str]) -> list[Old]:
    found: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for record in records:
        if mark := marks[record.id]:
            found[record.method, mark, record.identity.revision].append(record)
    return [
        Old(row, mark, MARKS[mark], len(own), revision, max(_moment(record.finished) for record in own))
        for (row, mark, revision), own in sorted(found.items())
    ]


def _moment(iso: str) -> str:
    return f"{iso[:10]} {iso[11:16]} UTC"


def _machine(place: Environment) -> str:
    what = place.processor if place.device == "cpu" else f"{place.device}, {place.processor}"
    threads = f"{counted(place.cores, 'core')}, {counted(place.threads, 'thread')}"
    return f"{what} ({threads}), {place.system}, Python {place.python}"


def _distinct(texts: Any) -> str:
    return "; ".join(sorted(set(texts)))


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else ("{}" if value == {} else str(value))
