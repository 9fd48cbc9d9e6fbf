"""What there is to do: the cells row x seed of a suite."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from marginbench.benchmarks.records.record import About, Identity
from marginbench.benchmarks.records.training import TrainingIdentity
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.blueprint import needs_radii
from marginbench.methods import Method, spec_of
from marginbench.methods.code import source_of
from marginbench.methods.errors import ParameterError

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A row of the tables: a method, and what was chosen beside it."""

    method: Method
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what it changes of the suite's recipe, by dotted key
    tuning: Tuning | None = None  # how that was chosen

    @property
    def name(self) -> str:
        return spec_of(self.method) if self.tuning is None else self.tuning.name

    def suite(self, suite: Suite) -> Suite:
        """The suite by which it is trained."""
        return derive(suite, self.recipe) if self.recipe else suite


@dataclass(frozen=True)
class Cell:
    """One run to do: one row with one seed."""

    row: Row
    repetition: int
    training: TrainingIdentity
    suite: str  # fingerprint

    @property
    def method(self) -> Method:
        return self.row.method

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
            recipe=dict(self.row.recipe) or None,
            tuning=None if self.row.tuning is None else self.row.tuning.id,
        )

    @property
    def id(self) -> str:
        """Of the evaluation's record: 64 hexadecimal digits."""
        return self.identity.id


def make_plan(
    suite: Suite, rows: Sequence[Method | Row], repetitions: Iterable[int], data_fingerprint: str
) -> list[Cell]:
    """All cells, repetition by repetition, so that an interrupted run leaves comparable rows.

    In each of them cross-entropy comes first: it is quick, and what the others are compared with.
    """
    every = [row if isinstance(row, Row) else Row(row) for row in rows]
    first = sorted(every, key=lambda row: row.method.info.key != "ce")
    fingerprint, shared = suite.fingerprint, suite.recipe
    recipes = [row.suite(suite).recipe if row.recipe else shared for row in first]
    return [
        Cell(row, repetition, _training(row.method, repetition, recipe, suite, data_fingerprint), fingerprint)
        for repetition in repetitions
        for row, recipe in zip(first, recipes, strict=True)
    ]


def take_shard(cells: Sequence[T], shard: str | None) -> list[T]:
    """Every n-th from the i-th on, for the shard "i/n"; all without one.

    Raises:
        ParameterError: not of that form, or i beyond n.
    """
    if shard is None:
        return list(cells)
    i, slash, n = shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ParameterError("shard", shard, "write I/N with I from 1 to N, as in 2/4")
    return list(cells[int(i) - 1 :: int(n)])


def about_of(row: Row) -> About:
    """What tables say of the row's method."""
    info = row.method.info
    rows = (info.key, *info.presets)
    spec = spec_of(row.method) if row.tuning is None else row.tuning.row
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
        source=source_of(type(method)),
        epsilon=dict(suite.trained_for) if needs_radii(method) else None,
        repetition=repetition,
    )
