"""What there is to do: the cells method x seed of a suite."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from marginbench.benchmarks.records.record import About, Identity
from marginbench.benchmarks.records.training import TrainingIdentity
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.blueprint import needs_radii
from marginbench.methods import Method, spec_of
from marginbench.methods.errors import ParameterError
from marginbench.methods.userfile import module_source


@dataclass(frozen=True)
class Cell:
    """One run to do: one method with one seed."""

    method: Method
    repetition: int
    training: TrainingIdentity
    suite: str  # fingerprint

    @cached_property
    def identity(self) -> Identity:
        """Of the evaluation."""
        of = self.training
        return Identity(
            suite=self.suite,
            data=of.data,
            method=of.method,
            fields=of.fields,
            revision=of.revision,
            source=of.source,
            repetition=self.repetition,
            training=of.id,
        )

    @property
    def id(self) -> str:
        """Of the evaluation's record: 64 hexadecimal digits."""
        return self.identity.id


def make_plan(suite: Suite, methods: Sequence[Method], repetitions: Iterable[int], data_fingerprint: str) -> list[Cell]:
    """All cells, repetition by repetition, so that an interrupted run leaves comparable rows.

    In each of them cross-entropy comes first: it is quick, and what the others are compared with.
    """
    recipe, fingerprint = suite.recipe, suite.fingerprint
    first = sorted(methods, key=lambda method: method.info.key != "ce")
    return [
        Cell(method, repetition, _training(method, repetition, recipe, suite, data_fingerprint), fingerprint)
        for repetition in repetitions
        for method in first
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


def _training(
    method: Method, repetition: int, recipe: dict[str, Any], suite: Suite, data_fingerprint: str
) -> TrainingIdentity:
    return TrainingIdentity(
        recipe=recipe,
        data=data_fingerprint,
        method=method.info.key,
        fields=method.model_dump(mode="json"),
        revision=method.info.revision,
        source=module_source(type(method).__module__),
        epsilon=dict(suite.trained_for) if needs_radii(method) else None,
        repetition=repetition,
    )
