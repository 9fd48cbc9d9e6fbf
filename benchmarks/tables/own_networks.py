"""Suites as blocks of a test: several evaluations of the same networks are one of them."""

from collections.abc import Mapping, Sequence

from marginbench.benchmarks.records.record import Record


def with_own_networks(suites: Mapping[str, Sequence[Record]], rows: Mapping[str, int]) -> dict[str, list[str]]:
    """Suites no two of which share a network, in their order, each with those that share some with it.

    Of suites that share networks the one with more rows stays; of as many rows, the one as its file says before one
    that was changed; else the first. A single network in common is enough.

    Args:
        suites: records, by fingerprint.
        rows: how many rows each has measured.
    """
    networks = {suite: set(map(_network, own)) for suite, own in suites.items()}
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


def _network(record: Record) -> tuple[str, ...]:
    """What says whether two records are of one network; on data of another name a model from outside is another one."""
    of = record.identity
    if of.training is not None:
        return (of.training,)
    return (of.weights, data_of(record)) if of.weights is not None else (record.id,)
