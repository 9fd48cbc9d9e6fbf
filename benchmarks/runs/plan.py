"""What there is to do: the cells method x seed of a suite, less those that have a record."""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.records.record import About, Identity
from marginbench.benchmarks.suites.derive import SECTIONS
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, Method, create, register, rows, spec_of
from marginbench.methods.errors import ParameterError, suggest
from marginbench.methods.spec import configure, parse_value

PLANS = "plans"
EXAMPLE = "write METHOD.FIELD=VALUE, as in arcface.m=0.4, or SECTION.KEY=VALUE of the suite, as in training.epochs=5"
Settings = Mapping[str, Any] | Sequence[str]  # KEY to value, or KEY=VALUE


@dataclass(frozen=True)
class Cell:
    """One run to do: one method with one seed."""

    method: Method
    repetition: int
    identity: Identity

    @property
    def id(self) -> str:
        return self.identity.id


def split_settings(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the suite, as in training.epochs, and those of methods, as in arcface.m; values may be text.

    Raises:
        ParameterError: one that is not KEY=VALUE with a dot in the key.
    """
    given = dict(settings) if isinstance(settings, Mapping) else {}
    for text in () if isinstance(settings, Mapping) else settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ParameterError("set", text, EXAMPLE)
        if key.strip() in given:
            raise ParameterError("set", text, f"{key.strip()!r} is given twice")
        given[key.strip()] = value
    for key, value in given.items():
        if "." not in key:
            raise ParameterError("set", f"{key}={value}", EXAMPLE)
    of_suite = {key: value for key, value in given.items() if key.partition(".")[0] in SECTIONS}
    return of_suite, {key: value for key, value in given.items() if key not in of_suite}


def choose_methods(
    methods: Sequence[str | Path | Method | type[Method]] | None, suite: Suite, settings: Settings = ()
) -> list[Method]:
    """The methods to run: those given, else the suite's, else all.

    Args:
        methods: spec strings, methods, or plug-in files, which stand for all methods that they define.
        settings: METHOD.FIELD to its value, applied to every setting of the method among them.

    Raises:
        MarginbenchError: unknown method or field, wrong value, a method named twice or a setting for none.
    """
    chosen = [method for given in (methods or suite.methods or rows()) for method in _methods(given)]
    for target, value in split_settings(settings)[1].items():
        key, _, field = target.partition(".")
        keys = [method.info.key for method in chosen]
        if key not in keys:
            known = suggest(key, [*keys, *SECTIONS])
            raise ParameterError("set", f"{target}={value}", f"method {key!r} is not among those to run: {known}")
        fields = {field: parse_value(value) if isinstance(value, str) else value}
        chosen = [configure(type(m), {**dict(m), **fields}) if m.info.key == key else m for m in chosen]
    specs_seen = [spec_of(method) for method in chosen]
    twice = {spec for spec in specs_seen if specs_seen.count(spec) > 1}
    if twice:
        raise MarginbenchError(f"method {min(twice)!r} is named twice")
    return chosen


def _methods(given: str | Path | Method | type[Method]) -> list[Method]:
    if isinstance(given, str) and not given.endswith(".py"):
        return [create(given)]
    if isinstance(given, str | Path):
        return [configure(cls, {}) for cls in load_plugin(given)]
    method = configure(given, {}) if isinstance(given, type) else given
    if not isinstance(method, Method):
        raise ParameterError("methods", given, "write spec strings such as 'ce', methods, or paths of plug-in files")
    register(type(method))  # tables ask for its place among the others
    return [method]


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


def write_plan(folder: Path, suite: Suite, cells: Iterable[Cell]) -> None:
    """Note in a suite's folder what is to be done. Each plan has its own file: several processes may be at work."""
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
