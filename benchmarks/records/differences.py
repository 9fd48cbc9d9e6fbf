"""In what two environments differ, of all that may change the last bits of a result."""

from collections.abc import Iterator
from typing import NamedTuple

from marginbench.benchmarks.records.record import Environment, Record

UNKNOWN = "not recorded"


class Difference(NamedTuple):
    """One fact that is not the same."""

    name: str
    there: str  # in the record
    here: str


def differences(there: Environment, here: Environment) -> list[Difference]:
    """What the environments differ in, processor and threads first; what an older record does not say counts as such.

    Cores and threads between operations are left out, since neither changes a sum; so is the name of the host, which
    machines share. A commit with + alone, as older records have it, is no known state of the files: it differs from
    itself.
    """
    old, new = dict(_facts(there)), dict(_facts(here))
    whole = bool(there.builds)  # of schema 4 or newer: what is not named was not there
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        before = old.get(name, "none" if whole else UNKNOWN)
        after = new.get(name, "none")
        if before != after or (name == "commit" and after.endswith("+")):
            found.append(Difference(name, before, after))
    return found


def measured_elsewhere(record: Record, here: Environment) -> list[Difference]:
    """The estimators of a record that were run again after its evaluation, by another commit than the one here."""
    commits = {name: str(facts["commit"]) for name, facts in record.estimators.items() if facts.get("commit")}
    return [
        Difference(f"commit of {name}", commit, here.commit or "none")
        for name, commit in commits.items()
        if commit != here.commit
    ]


def _facts(of: Environment) -> Iterator[tuple[str, str]]:
    yield "device", of.device
    yield "processor", of.processor
    yield from ((f"processor's {name}", value) for name, value in of.processor_details.items())
    yield "threads", str(of.threads)
    yield from of.variables.items()
    yield "system", of.system
    yield "python", of.python
    yield from ((f"build of {name}", value) for name, value in of.builds.items())
    yield from ((name, version or "none") for name, version in of.versions.items())
    yield "commit", of.commit or "none"
