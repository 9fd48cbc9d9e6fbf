"""A suite with some of its keys changed: `derive(suite, {"training.epochs": 5})`."""

import contextlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.suites.schema import Suite, load_suite, make_suite, resolve_files
from marginbench.methods.errors import MarginbenchError, ParameterError, suggest
from marginbench.methods.spec import parse_value, read_settings

SECTIONS = ("data", "network", "training", "evaluation")
SAFE = re.compile(r"[A-Za-z0-9_.+-]{1,24}")  # in the name of a folder, on every system
LONGEST = 100  # characters of a name
EXAMPLE = "write KEY=VALUE, as in training.epochs=5"


def derive(suite: Suite, settings: Mapping[str, Any] | Sequence[str]) -> Suite:
    """The suite with some keys changed, checked as a file is.

    It has a name of its own, such as `digits+training.epochs=5`, and another fingerprint; the order of the settings
    makes no difference, and one that changes nothing counts for nothing. Initial weights and all draws stay those of
    the base, as far as shapes allow, so that the two can be compared in pairs. Changing the network's name or file
    gives the network its own width, unless `network.width` is set too.

    Args:
        settings: values by dotted key, as in {"evaluation.attacks.fmn.steps": 100}, or texts KEY=VALUE. A text is read
            as a number, true, false, none, a word, or a list or table of TOML. None leaves a key out, which gives its
            default. Files are relative to the current folder.

    Raises:
        ParameterError: a text of another form, or a key that is given twice.
        MarginbenchError: a key that suites do not have, or a value that does not fit it.
    """
    base = suite if suite.base is None else suite.base
    changes = {**suite.changes, **_parse(settings)}
    derived = _apply(base, changes)
    for key in sorted(changes):  # leave out what changes nothing
        rest = {other: value for other, value in changes.items() if other != key}
        with contextlib.suppress(MarginbenchError):  # the others may need it
            if (fewer := _apply(base, rest)).fingerprint == derived.fingerprint:
                derived, changes = fewer, rest
    if not changes:
        return base
    shown = {key: _shown(derived, key, changes[key]) for key in sorted(changes)}
    title = f"{base.title}; changed: {', '.join(f'{key}={text}' for key, text in shown.items())}"
    return derived.model_copy(update={"name": _name(base, shown), "title": title, "base": base, "changes": changes})


def evaluated_by(suite: Suite, evaluation: str | Path | None) -> Suite:
    """The suite with another evaluation: what is trained stays the same.

    Args:
        evaluation: a preset of attacks, or a suite, built in or a FILE.toml, whose section `evaluation` is taken. With
            None the suite stays as it is.

    Raises:
        MarginbenchError: none of these.
    """
    if evaluation is None:
        return suite
    if evaluation in PRESETS:
        return derive(suite, {"evaluation.attacks": evaluation})
    try:
        other = load_suite(str(evaluation))
    except MarginbenchError as error:
        raise ParameterError("evaluation", str(evaluation), f"is no preset ({', '.join(PRESETS)}): {error}") from None
    theirs, ours = _values(other.evaluation), _values(suite.evaluation)
    derived = derive(suite, {f"evaluation.{key}": theirs.get(key) for key in {*ours, *theirs}})
    return derived if derived is suite else derived.model_copy(update={"name": f"{suite.name}+evaluation={other.name}"})


def _parse(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(settings, str):
        raise ParameterError("set", settings, f"a list or a mapping is needed; {EXAMPLE}")
    values = read_settings(settings, EXAMPLE)
    return {key: _read(value) if isinstance(value, str) else value for key, value in values.items()}


def _read(text: str) -> Any:
    if text.strip().startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    value = parse_value(text)
    return list(value) if isinstance(value, tuple) else value


def _apply(base: Suite, changes: Mapping[str, Any]) -> Suite:
    if not changes:
        return base
    where = f"suite {base.name}, changed"
    values = _values(base)
    if {"network.name", "network.file"} & set(changes):
        values["network"] = {}
    for key in sorted(changes):  # evaluation.attacks comes before evaluation.attacks.fmn.steps
        _put(values, key, changes[key], where)
        if key.startswith("evaluation.attacks.") and key.endswith(".file"):
            _put(values, key.removesuffix("file") + "sha256", None, where)  # of the other file
    return make_suite(resolve_files(values, Path.cwd()), base.folder, where)


def _values(section: BaseModel) -> dict[str, Any]:
    """What a file would say: without the defaults, and with the files where they are."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return plain(value.root) if hasattr(value, "root") else _values(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    hidden = {name for name, field in type(section).model_fields.items() if field.exclude}
    values = {name: plain(value) for name, value in section if name in section.model_fields_set - hidden}
    if isinstance(section, Evaluation):
        values |= {key: probe.model_dump() for key, probe in section.probes.items()}
    return values


def _put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    first, *between = key.split(".")
    if first not in SECTIONS or not between:
        own = f"{first} has an option of its own; " if first in ("methods", "seeds") else ""
        raise MarginbenchError(f"{where}: {key!r} is no key of a section: {own}{suggest(first, SECTIONS)}; {EXAMPLE}")
    *between, last = between
    table = values.setdefault(first, {})
    for part in between:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise MarginbenchError(f"{where}: {key!r}: {part!r} holds no further keys")
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value


def _shown(suite: Suite, key: str, given: Any) -> str:
    """The value of a key as names and titles show it: the one that the suite holds, if that is short."""
    value: Any = suite.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if given is None:
        value = None
    elif isinstance(value, dict | list) and isinstance(given, str):
        value = given  # a preset by its name
    if value is None or isinstance(value, bool | dict | list):
        return "none" if value is None else json.dumps(value, sort_keys=True)
    return str(value)


def _name(base: Suite, shown: Mapping[str, str]) -> str:
    parts = [f"{key}={text if SAFE.fullmatch(text) else digest(text)[:8]}" for key, text in shown.items()]
    name = "+".join([base.name, *parts])
    return name if len(name) <= LONGEST else f"{base.name}+{digest(dict(shown))[:8]}"
