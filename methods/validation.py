"""What is wrong with a method that can be seen without training it: facts, hyper-parameters, names of hooks."""

import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from marginbench.methods.errors import MarginbenchError, suggest
from marginbench.methods.facts import CLAIMS, NEEDS, Info
from marginbench.methods.method import ADDED, CONTRACT, Method
from marginbench.methods.spec import configure, is_key

MATHS = "maths"  # the folder that holds no methods
STRICT = ConfigDict(strict=True)


def validate(cls: type[Method]) -> None:
    """Refuse a class that is no method of this contract.

    Raises:
        MarginbenchError: with its file, its name, the field or hook, and what would be right.
    """
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise MarginbenchError(f"{cls!r} is not a subclass of marginbench.methods.Method")
    where = f"{file_of(cls)}, class {cls.__name__}"
    if not isinstance(getattr(cls, "info", None), Info):
        raise MarginbenchError(f"{where}: set `info: ClassVar[Info] = Info(key=..., title=..., ...)`")
    if not cls.__doc__:
        raise MarginbenchError(f"{where}: the docstring must give the objective, with shapes")
    _validate_info(cls.info, where)
    _validate_hooks(cls, where)
    _validate_fields(cls, where)


def hook_arguments(contract: int) -> dict[str, list[str]]:
    """The hooks and their arguments under a contract."""
    return {
        name: [key for key in inspect.signature(hook).parameters if ADDED.get((name, key), 1) <= contract]
        for name, hook in vars(Method).items()
        if inspect.isfunction(hook) and not name.startswith("_")
    }


def file_of(cls: type[Method]) -> str:
    """The file of a class, or its module where there is none, as in a notebook."""
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or cls.__module__)


@cache
def families() -> tuple[str, ...]:
    """The families of the built-in methods: the folders beside this file."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return tuple(module.name for module in found if module.ispkg and module.name != MATHS)


def _validate_info(info: Info, where: str) -> None:
    for what, key in (("Info.key", info.key), *(("the key of a preset", key) for key in _presets(info))):
        if isinstance(key, str) and not is_key(key):
            raise MarginbenchError(f"{where}: {what} is {key!r}: use letters, digits and _, as in my_margin")
    words: Mapping[str, tuple[str, ...]] = {"claims": tuple(CLAIMS), "needs": tuple(NEEDS)}
    for name, known in words.items():
        given = getattr(info, name)
        for word in given if isinstance(given, tuple | frozenset) else ():
            if word not in known:
                raise MarginbenchError(f"{where}: unknown {name[:-1]} {word!r}: {suggest(str(word), known)}")
    for name, kind in _kinds().items():
        try:
            kind.validate_python(getattr(info, name))
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            given = f"Info.{name}={getattr(info, name)!r}"
            raise MarginbenchError(f"{where}: {given}: {problem[0].lower()}{problem[1:]}") from None
    if info.family not in families() and not info.own_family:
        raise MarginbenchError(
            f"{where}: unknown family {info.family!r}: {suggest(info.family, families())};"
            " for one of your own, say Info(own_family=True)"
        )


def _presets(info: Info) -> Iterable[Any]:
    return info.presets if isinstance(info.presets, Mapping) else ()


@cache
def _kinds() -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(Info)
    return {field.name: TypeAdapter(hints[field.name], config=STRICT) for field in fields(Info)}


def _validate_fields(cls: type[Method], where: str) -> None:
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "unit" not in extra or field.is_required():
            raise MarginbenchError(f"{where}: declare {name!r} with param(default, doc, unit=, source=, search=)")
        try:
            cls(**{name: field.default})
        except (ValidationError, TypeError) as error:  # a limit of another type is no ValidationError
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            default = f"the default {field.default!r} of {name}"
            raise MarginbenchError(f"{where}: {default}: {problem[0].lower()}{problem[1:]}") from None
    settings = {f"preset {name!r}": dict(preset) for name, preset in cls.info.presets.items()}
    if not isinstance(cls.info.neutral, str):
        settings["Info.neutral"] = dict(cls.info.neutral)
    for what, values in settings.items():
        try:
            configure(cls, values)
        except MarginbenchError as error:
            raise MarginbenchError(f"{where}, {what}: {error}") from None


def _validate_hooks(cls: type[Method], where: str) -> None:
    contract = cls.info.contract
    if not 1 <= contract <= CONTRACT:
        raise MarginbenchError(
            f"{where}: written for contract {contract}, this version of marginbench has {CONTRACT}: update marginbench,"
            " or set Info.contract to the one that the hooks follow"
        )
    hooks = hook_arguments(contract)
    for name, value in vars(cls).items():
        if name.startswith(("_", "model_")) or not inspect.isfunction(value):
            continue
        if name not in hooks:
            raise MarginbenchError(f"{where}: {name!r} is not a hook ({suggest(name, hooks)}); helpers start with _")
        arguments = list(inspect.signature(value).parameters)
        if arguments != hooks[name]:
            raise MarginbenchError(
                f"{where}: {name}({', '.join(arguments)}) should be {name}({', '.join(hooks[name])})"
            )
