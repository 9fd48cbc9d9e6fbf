"""What there is to do: the cells method x seed of a suite, less those that have a record."""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.records.record import About, Identity
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, Method, create, rows, spec_of
from marginbench.methods.errors import suggest
from marginbench.methods.spec import configure, parse_value

PLANS = "plans"


@dataclass(frozen=True)
class Cell:
    """One run to do: one method with one seed."""

    method: Method
    repetition: int
    identity: Identity

    @property
    def id(self) -> str:
        return self.identity.id


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
    fixed: dict[str, Any] = {"suite": suite.fingerprint, "data": data_fingerprint}
    return [
        Cell(method, repetition, Identity(**fixed, **_identity(method), repetition=repetition))
        for repetition in repetitions
        for method in methods
    ]


def shard(cells: Sequence[Cell], part: str | None) -> list[Cell]:
    """Every n-th cell from the i-th on, for `part` "i/n"; all without one.

    Raises:
        MarginbenchError: not of that form, or i beyond n.
    """
    if part is None:
        return list(cells)
    i, slash, n = part.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise MarginbenchError(f"--shard {part!r}: write I/N with I from 1 to N, as in 2/4")
    return list(cells[int(i) - 1 :: int(n)])


def write_plan(folder: Path, suite: Suite, cells: Iterable[Cell]) -> None:
    """Note in a suite's folder what is to be done, in a file of its own for each plan: several may be at work."""
    todo = {cell.id: [spec_of(cell.method), cell.repetition] for cell in cells}
    content = {"suite": suite.fingerprint, "cells": todo}
    path = folder / PLANS / f"{digest(content)[:12]}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_plans(folder: Path) -> dict[str, tuple[str, int]]:
    """Method and repetition by id, of all plans for the suite as it was when the newest of them was made."""
    plans = []
    for path in (folder / PLANS).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            plans.append((path.stat().st_mtime, json.loads(path.read_text(encoding="utf-8"))))
    if not plans:
        return {}
    newest = max(plans, key=lambda plan: plan[0])[1]["suite"]
    found = [plan["cells"] for _, plan in sorted(plans, key=lambda plan: plan[0]) if plan["suite"] == newest]
    return {run_id: (method, repetition) for cells in found for run_id, (method, repetition) in cells.items()}


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
