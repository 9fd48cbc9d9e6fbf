"""Networks count once: several evaluations of the same ones are one block of a test, and several rows of them one row.

A tuned row has the networks of the other one where the default was the best of the trials.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

from marginbench.benchmarks.records.record import Record

Network = tuple[str, ...]  # equal where two records are of one network


def with_own_networks(suites: Mapping[str, Sequence[Record]], rows: Mapping[str, int]) -> dict[str, list[str]]:
    """Suites no two of which share a network, in their order, each with those that share some with it.

    Of suites that share networks the one with more rows stays; of as many rows, the one as its file says before one
    that was changed; else the first. A single network in common is enough.

    Args:
        suites: records, by fingerprint.
        rows: how many rows each has measured.
    """
    networks = {suite: set(map(network, own)) for suite, own in suites.items()}
    changed = {suite: "+" in own[0].suite.name for suite, own in suites.items()}
    found: dict[str, list[str]] = {}
    for suite in sorted(suites, key=lambda one: (-rows[one], changed[one])):
        same = next((one for one in found if networks[one] & networks[suite]), None)
        if same is None:
            found[suite] = []
        else:
            found[same].append(suite)
    return {suite: found[suite] for suite in suites if suite in found}


def data_of(record: Record) -> str:
    """The name of the data, whatever was changed of them."""
    return str(dict(record.suite.settings.get("data", {})).get("name", record.suite.name))


def rows_once(rows: Sequence[Iterable[Hashable]]) -> list[bool]:
    """Which rows count where networks do once, by the networks of each: of rows that share some, the one with most."""
    networks = [set(of) for of in rows]
    taken: set[Hashable] = set()
    found = [False] * len(rows)
    for k in sorted(range(len(rows)), key=lambda row: -len(networks[row])):
        if not networks[k] & taken:
            found[k] = True
            taken |= networks[k]
    return found


def once(records: Iterable[Record]) -> list[Record]:
    """One record of each network, of a row that was not tuned if there is one; in their order."""
    found: dict[Network, Record] = {}
    for record in records:
        known = found.setdefault(network(record), record)
        if known.tuning is not None and record.tuning is None:
            found[network(record)] = record
    return list(found.values())


def network(record: Record) -> Network:
    """What says whether two records are of one network; on data of another name a model from outside is another one."""
    of = record.identity
    if of.training is not None:
        return (of.training,)
    return (of.weights, data_of(record)) if of.weights is not None else (record.id,)
