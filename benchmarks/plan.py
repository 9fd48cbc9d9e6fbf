"""What there is to do: the cells method x seed of a suite, less those that have a record."""

import hashlib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marginbench.benchmarks.seeds import digest
from marginbench.benchmarks.store import SCHEMA
from marginbench.benchmarks.suite import Suite
from marginbench.methods import MarginbenchError, Method, create, rows, spec_of
from marginbench.methods.errors import suggest
from marginbench.methods.spec import configure, parse_value


@dataclass(frozen=True)
class Cell:
    """One run to do: one method with one seed."""

    method: Method
    repetition: int
    identity: dict[str, Any]

    @property
    def id(self) -> str:
        return digest(self.identity)


def choose_methods(specs: Sequence[str] | None, suite: Suite, settings: Iterable[str]) -> list[Method]:
    """The methods to run: those named, else the suite's, else all; `settings` are METHOD.FIELD=VALUE.

    Raises:
        MarginbenchError: unknown method or field, wrong value, a method named twice or a setting for none.
    """
    chosen = [create(spec) for spec in (specs or suite.methods or rows())]
    for setting in settings:
        target, equals, value = setting.partition("=")
        key, dot, field = target.partition(".")
        if not (equals and dot):
            raise MarginbenchError(f"--set {setting!r}: write METHOD.FIELD=VALUE, as in arcface.m=0.4")
        keys = [method.info.key for method in chosen]
        if key not in keys:
            raise MarginbenchError(f"--set {setting!r}: method {key!r} is not among those to run: {suggest(key, keys)}")
        chosen = [
            configure(type(m), {**dict(m), field: parse_value(value)}) if m.info.key == key else m for m in chosen
        ]
    specs_seen = [spec_of(method) for method in chosen]
    twice = {spec for spec in specs_seen if specs_seen.count(spec) > 1}
    if twice:
        raise MarginbenchError(f"method {min(twice)!r} is named twice")
    return chosen


def make_plan(suite: Suite, methods: Sequence[Method], repetitions: Iterable[int], data_fingerprint: str) -> list[Cell]:
    """All cells, repetition by repetition, so that an interrupted run leaves comparable rows."""
    fixed = {"schema": SCHEMA, "suite": suite.fingerprint, "data": data_fingerprint}
    return [
        Cell(method, repetition, {**fixed, **_identity(method), "repetition": repetition})
        for repetition in repetitions
        for method in methods
    ]


def _identity(method: Method) -> dict[str, Any]:
    return {
        "method": method.info.key,
        "fields": method.model_dump(mode="json"),
        "revision": method.info.revision,
        "source": _source(type(method)),
    }


def _source(cls: type[Method]) -> str | None:
    """SHA-256 of a plug-in's file: editing it makes its records stale. Built-in methods raise their revision."""
    if cls.__module__.startswith("marginbench.methods."):
        return None
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):  # defined in a notebook
        return None
