"""Which methods run, with which settings: from what a call names, else from the suite."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.suites.derive import SECTIONS
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, Method, create, register, spec_of
from marginbench.methods.errors import ParameterError, Problems, suggest
from marginbench.methods.spec import configure, parse_value, read_settings

EXAMPLE = "write METHOD.FIELD=VALUE, as in arcface.m=0.4, or SECTION.KEY=VALUE of the suite, as in training.epochs=5"
Settings = Mapping[str, Any] | Sequence[str]  # KEY to value, or KEY=VALUE


def split_settings(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the suite, as in training.epochs, and those of methods, as in arcface.m; values may be text.

    Raises:
        ParameterError: one that is not KEY=VALUE with a dot in the key.
    """
    given = read_settings(settings, EXAMPLE)
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
    problems = Problems()
    chosen: list[Method] = []
    for given in methods or suite.rows:
        with problems.collected():
            chosen += _methods(given)
    problems.report()
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
