"""Spec strings such as `arcface(m=0.4)`: one canonical text per configured method."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from marginbench.methods.errors import MarginbenchError, ParameterError, suggest

if TYPE_CHECKING:  # the command line splits specs before torch is loaded
    from marginbench.methods.method import Method

_KEY = r"[A-Za-z_]\w*"
_SPEC = re.compile(rf"\s*(?P<key>{_KEY})\s*(?:\((?P<fields>.*)\))?\s*", re.DOTALL)
_WORDS = {"true": True, "false": False, "none": None, "inf": float("inf")}


def parse_value(text: str) -> Any:
    """Read a number, true/false/none, a quoted string, a tuple, or a bare word."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read_settings(settings: Mapping[str, Any] | Iterable[str], example: str) -> dict[str, Any]:
    """Settings by key, from a mapping or from texts KEY=VALUE, whose values stay text.

    Args:
        example: says what to write, for the error message.

    Raises:
        ParameterError: a text without a key or a value, or a key that is given twice.
    """
    if isinstance(settings, Mapping):
        return dict(settings)
    values: dict[str, Any] = {}
    for text in settings:
        key, _, value = (part.strip() for part in text.partition("="))
        if not key or not value:
            raise ParameterError("set", text, example)
        if key in values:
            raise ParameterError("set", text, f"{key!r} is given twice")
        values[key] = value
    return values


def is_key(text: str) -> bool:
    """Whether a spec can name a method or preset so."""
    return re.fullmatch(_KEY, text) is not None


def split_specs(text: str) -> list[str]:
    """Split at the commas outside brackets: `ce,arcface(s=16,m=0.4)` gives two."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split `key(field=value, ...)` into the key and its fields.

    Raises:
        MarginbenchError: the text has another form, or names a field twice.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise MarginbenchError(f"method {spec!r}: write KEY or KEY(FIELD=VALUE, ...), as in arcface(m=0.4)")
    fields: dict[str, Any] = {}
    for item in split_specs(match["fields"] or ""):
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or not value.strip():
            raise MarginbenchError(f"method {spec!r}: {item!r} should read FIELD=VALUE, as in arcface(m=0.4)")
        if name in fields:
            raise MarginbenchError(f"method {spec!r}: field {name!r} is given twice")
        fields[name] = parse_value(value)
    return match["key"], fields


def configure(cls: type[Method], fields: dict[str, Any]) -> Method:
    """Build the method, turning pydantic's errors into one line.

    Raises:
        MarginbenchError: unknown field, wrong type or value out of range.
    """
    try:
        return cls(**fields)
    except ValidationError as error:
        raise MarginbenchError("; ".join(_explain(cls, e) for e in error.errors())) from None


def _explain(cls: type[Method], error: Any) -> str:
    key, name = cls.info.key, ".".join(str(part) for part in error["loc"][:1])
    if error["type"] == "extra_forbidden":
        return f"method {key!r} has no field {name!r}: {suggest(name, cls.model_fields)}"
    info = cls.model_fields.get(name)
    default = f" (default {info.default!r}; `marginbench methods {key}` explains it)" if info else ""
    where = f"{key}.{name}={error['input']!r}" if info else key
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}{default}"


def spec_of(method: Method) -> str:
    """The canonical spec: a preset's name, or the key and the fields that differ from their defaults, in order."""
    for name, preset in method.info.presets.items():
        if method == configure(type(method), dict(preset)):
            return name
    fields = type(method).model_fields
    changed = [
        f"{name}={_format(getattr(method, name))}"
        for name, field in fields.items()
        if getattr(method, name) != field.default
    ]
    return method.info.key + (f"({','.join(changed)})" if changed else "")


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"({','.join(map(_format, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        return f"{value:.12g}" if float(f"{value:.12g}") == value else repr(value)
    return str(value)
