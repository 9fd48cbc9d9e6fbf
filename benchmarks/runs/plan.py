"""What there is to do: the cells method x seed of a suite."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.records.record import About, Identity
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import Method, spec_of
from marginbench.methods.errors import ParameterError
from marginbench.methods.userfile import module_source


@dataclass(frozen=True)
class Cell:
    """One run to do: one method with one seed."""

    method: Method
    repetition: int
    identity: Identity

    @property
    def id(self) -> str:
        """Of the run's record: 64 hexadecimal digits."""
        return self.identity.id


def make_plan(suite: Suite, methods: Sequence[Method], repetitions: Iterable[int], data_fingerprint: str) -> list[Cell]:
    """All cells, repetition by repetition, so that an interrupted run leaves comparable rows.

    In each of them cross-entropy comes first: it is quick, and what the others are compared with.
    """
    fixed: dict[str, Any] = {"suite": suite.fingerprint, "data": data_fingerprint}
    return [
        Cell(method, repetition, Identity(**fixed, **_identity(method), repetition=repetition))
        for repetition in repetitions
        for method in sorted(methods, key=lambda method: method.info.key != "ce")
    ]


def take_shard(cells: Sequence[Cell], shard: str | None) -> list[Cell]:
    """Every n-th cell from the i-th on, for the shard "i/n"; all without one.

    Raises:
        ParameterError: not of that form, or i beyond n.
    """
    if shard is None:
        return list(cells)
    i, slash, n = shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ParameterError("shard", shard, "write I/N with I from 1 to N, as in 2/4")
    return list(cells[int(i) - 1 :: int(n)])


def about_of(method: Method) -> About:
    """What tables say of the method."""
    info = method.info
    rows = (info.key, *info.presets)
    spec = spec_of(method)
    place = rows.index(spec) if spec in rows else 0  # variants follow the method
    return About(info.title, info.family, info.paper, info.claims, place)


def _identity(method: Method) -> dict[str, Any]:
    return {
        "method": method.info.key,
        "fields": method.model_dump(mode="json"),
        "revision": method.info.revision,
        "source": module_source(type(method).__module__),
    }
