"""Finds methods: files in the family folders, the entry-point group `marginbench.methods`, plug-in files."""

import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar, get_args

from marginbench.methods.errors import MarginbenchError, suggest
from marginbench.methods.facts import Claim, Info
from marginbench.methods.method import Method
from marginbench.methods.spec import configure, parse_spec
from marginbench.methods.userfile import USER_MODULE, load_user_file

ENTRY_POINTS = "marginbench.methods"
MATHS = "maths"  # the folder that holds no methods
HOOKS = {
    name: list(inspect.signature(function).parameters)
    for name, function in vars(Method).items()
    if inspect.isfunction(function) and not name.startswith("_")
}

_methods: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Add a method class to the registry; usable as a decorator in notebooks.

    Raises:
        MarginbenchError: facts missing, hook misspelt or with other arguments, or the key already taken.
    """
    _validate(cls)
    for key in (cls.info.key, *cls.info.presets):
        known = _find(key)
        if known is not None and _file(known) != _file(cls):
            raise MarginbenchError(
                f"{_file(cls)}: the key {key!r} is already taken by {_file(known)}: choose another Info.key"
            )
    _methods[cls.info.key] = cls
    return cls


def names() -> list[str]:
    """The keys of all methods, sorted by family and key; presets are in their `Info.presets`."""
    _scan()
    return sorted(_methods, key=lambda key: (_methods[key].info.family, key))


def get(key: str) -> type[Method]:
    """The class of a method, or of the method that a preset belongs to.

    Raises:
        MarginbenchError: no such key.
    """
    _scan()
    cls = _find(key)
    if cls is None:
        raise MarginbenchError(f"unknown method {key!r}: {suggest(key, rows())}")
    return cls


def rows() -> list[str]:
    """What gets a row of its own: every method, followed by its presets."""
    return [name for key in names() for name in (key, *_methods[key].info.presets)]


def _find(key: str) -> type[Method] | None:
    owners = (cls for cls in _methods.values() if key in cls.info.presets)
    return _methods.get(key) or next(owners, None)


def create(spec: str) -> Method:
    """Build a method from a spec string such as `arcface(m=0.4)`.

    Raises:
        MarginbenchError: unknown method or field, wrong type, value out of range.
    """
    key, fields = parse_spec(spec)
    cls = get(key)
    return configure(cls, {**cls.info.presets.get(key, {}), **fields})


def load_plugin(path: str | Path) -> list[type[Method]]:
    """Load a file and register the methods that it defines.

    Raises:
        MarginbenchError: no such file, its code fails, or it defines no method.
    """
    _scan()  # a plug-in must not take the key of a built-in method
    module = load_user_file(path, "plug-in")
    return _register_module(module, str(module.__file__))


def forget_plugins() -> None:
    """Take the methods of plug-in files out of the registry: other versions of them may follow, from other files."""
    for key in [key for key, cls in _methods.items() if cls.__module__.startswith(USER_MODULE)]:
        del _methods[key]


@cache
def _scan() -> None:
    package = importlib.import_module("marginbench.methods")
    for found in pkgutil.walk_packages(package.__path__, prefix="marginbench.methods."):
        family, _, stem = found.name.removeprefix("marginbench.methods.").partition(".")
        if stem and not found.ispkg and family != MATHS:
            for cls in _register_module(importlib.import_module(found.name), found.name):
                if (cls.info.family, cls.info.key) != (family, stem):
                    raise MarginbenchError(
                        f"{_file(cls)}: folder and file name say {family}/{stem},"
                        f" Info says {cls.info.family}/{cls.info.key}"
                    )
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            target = entry.load()
        except Exception as error:
            raise MarginbenchError(f"entry point {entry.value!r} of group {ENTRY_POINTS}: {error}") from error
        if isinstance(target, ModuleType):
            _register_module(target, entry.value)
        else:
            register(target)


def _register_module(module: ModuleType, where: str) -> list[type[Method]]:
    found = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    if not found:
        raise MarginbenchError(f"{where}: defines no subclass of marginbench.methods.Method")
    return [register(cls) for cls in found]


def _validate(cls: type[Method]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise MarginbenchError(f"{cls!r} is not a subclass of marginbench.methods.Method")
    where = f"{_file(cls)}, class {cls.__name__}"
    if not isinstance(getattr(cls, "info", None), Info):
        raise MarginbenchError(f"{where}: set `info: ClassVar[Info] = Info(key=..., title=..., ...)`")
    if not cls.__doc__:
        raise MarginbenchError(f"{where}: the docstring must give the objective, with shapes")
    for name, value in vars(cls).items():
        if name.startswith(("_", "model_")) or not inspect.isfunction(value):
            continue
        if name not in HOOKS:
            raise MarginbenchError(f"{where}: {name!r} is not a hook ({suggest(name, HOOKS)}); helpers start with _")
        arguments = list(inspect.signature(value).parameters)
        if arguments != HOOKS[name]:
            raise MarginbenchError(
                f"{where}: {name}({', '.join(arguments)}) should be {name}({', '.join(HOOKS[name])})"
            )
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "unit" not in extra or field.is_required():
            raise MarginbenchError(f"{where}: declare {name!r} with param(default, doc, unit=, source=, search=)")
    for claim in cls.info.claims:
        if claim not in get_args(Claim):
            raise MarginbenchError(f"{where}: unknown claim {claim!r}: {suggest(claim, get_args(Claim))}")
    for fields in (*cls.info.presets.values(), {} if isinstance(cls.info.neutral, str) else cls.info.neutral):
        configure(cls, dict(fields))


def _file(cls: type[Method]) -> str:
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or cls.__module__)
