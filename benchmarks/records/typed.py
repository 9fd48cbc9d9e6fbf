"""Dataclasses from JSON, every value checked against its annotation: quick enough for ten thousand records."""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Check = Callable[[Any, str], Any]  # value, key -> the value as the annotation wants it

_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}


class WrongValueError(Exception):
    """A value that does not fit. The message has the path of its key, as in `suite.name`, and says what would fit."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"key {key!r}: {problem}")


def build(cls: type[T], values: Any, key: str = "") -> T:
    """An instance of a dataclass from a JSON object; fields with a default may be missing.

    A class whose JSON has another shape than its fields says how to read it: `unpack(values) -> values by field`.

    Raises:
        WrongValueError: a key is missing, unknown, or has a value of another type.
    """
    if not isinstance(values, Mapping):
        raise WrongValueError(key, f"should be an object, not {values!r:.40}")
    unpack = getattr(cls, "unpack", None)
    if unpack is not None:
        values = unpack(values, key)
    known: Any = cls
    checks, required = _plan(known)
    found = {}
    for name, value in values.items():
        check = checks.get(name)
        if check is None:
            raise WrongValueError(_join(key, name), "is not known to this marginbench")
        found[name] = check(value, _join(key, name))
    for name in required:
        if name not in found:
            raise WrongValueError(_join(key, name), "is missing")
    return cls(**found)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


@cache
def _plan(cls: Any) -> tuple[dict[str, Check], tuple[str, ...]]:
    hints = get_type_hints(cls)
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: _check(hints[f.name]) for f in fields(cls)}, tuple(required)


def _check(hint: Any) -> Check:
    """The check of an annotation: the few kinds that records are made of."""
    if is_dataclass(hint) and isinstance(hint, type):
        kind = hint
        return lambda value, key: build(kind, value, key)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _one_of(arguments)
    if origin is dict:
        return _mapping(*arguments)
    if origin in (list, tuple):
        return _sequence(origin, _check(arguments[0]))
    if hint is Any:
        return lambda value, key: value
    return _of_kinds(arguments if origin in (Union, types.UnionType) else (hint,))


def _of_kinds(kinds: tuple[Any, ...]) -> Check:
    """Plain values, or one thing of another kind that may be null."""
    others = [kind for kind in kinds if kind not in _WORDS]
    return _or_null(_check(others[0])) if others else _plain(kinds)


def _or_null(check: Check) -> Check:
    return lambda value, key: None if value is None else check(value, key)


def _plain(kinds: tuple[type, ...]) -> Check:
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    exact = frozenset((*kinds, int) if float in kinds else kinds)  # bool is an int to isinstance

    def check(value: Any, key: str) -> Any:
        if type(value) not in exact:
            raise WrongValueError(key, f"should be {wanted}, not {value!r:.40}")
        return value

    return check


def _one_of(known: tuple[Any, ...]) -> Check:
    def check(value: Any, key: str) -> Any:
        if value not in known:
            raise WrongValueError(key, f"should be one of {', '.join(map(str, known))}, not {value!r:.40}")
        return value

    return check


def _mapping(keys: Any, values: Any) -> Check:
    """With Literal keys: exactly those, or none."""
    check_value, known = _check(values), get_args(keys)

    def check(value: Any, key: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise WrongValueError(key, f"should be an object, not {value!r:.40}")
        if known and value and value.keys() != set(known):
            raise WrongValueError(key, f"should have the keys {', '.join(known)}, not {', '.join(value) or 'none'}")
        return {name: check_value(item, f"{key}.{name}") for name, item in value.items()}

    return check


def _sequence(kind: Any, check_item: Check) -> Check:
    def check(value: Any, key: str) -> Any:
        if type(value) is not list:
            raise WrongValueError(key, f"should be a list, not {value!r:.40}")
        return kind(check_item(item, key) for item in value)

    return check
