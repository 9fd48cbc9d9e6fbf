"""The code of classes and functions that stand in no file, as in a notebook: an edited cell is another method."""

import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import singledispatch
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from marginbench.methods.userfile import BUILT_IN, module_source

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def source_of(thing: Any) -> str | None:
    """The first 16 hexadecimal digits of the SHA-256 of what defines a class or function, for records.

    That is its file, see `module_source`. Without a file it is its bytecode and all that this names in the same place:
    functions, classes, bases and objects of them, networks, numbers, arrays and imported files of the user. Objects of
    other kinds count by their class alone.

    Returns:
        None for what is built in.
    """
    if thing.__module__.startswith(BUILT_IN):
        return None
    in_file = module_source(thing.__module__)
    return in_file or hashlib.sha256("\n".join(_lines(thing, thing.__module__, {})).encode()).hexdigest()[:16]


def _lines(value: Any, home: str, seen: dict[int, Any]) -> Iterator[str]:
    """What tells a value from others; of what the module `home` defines, whatever it is made of."""
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, ModuleType):
        yield f"{value.__name__} {_of_user(value.__name__)}"
    elif isinstance(value, type | FunctionType) and value.__module__ != home:
        yield f"{value.__module__}.{value.__qualname__} {_of_user(value.__module__)}"
    elif id(value) not in seen:
        seen[id(value)] = value  # kept: another could have its id
        yield type(value).__qualname__
        own = type(value).__module__ == home and hasattr(value, "__dict__")
        for part in (*_parts(value), *((type(value), vars(value)) if own else ())):
            yield from _lines(part, home, seen)


@singledispatch
def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of. The order is the same in every process."""
    return ()


@_parts.register
def _(value: CodeType) -> Iterable[Any]:
    return value.co_code, *value.co_names, *value.co_varnames, *value.co_freevars, *value.co_consts


@_parts.register
def _(value: FunctionType) -> Iterable[Any]:
    used = {name: value.__globals__[name] for name in sorted(_named(value.__code__) & value.__globals__.keys())}
    return value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, used


@_parts.register
def _(value: type) -> Iterable[Any]:
    return *value.__mro__[1:], {name: entry for name, entry in vars(value).items() if not _generated(name, entry)}


@_parts.register
def _(value: property) -> Iterable[Any]:
    return value.fget, value.fset


@_parts.register(staticmethod)
@_parts.register(classmethod)
def _(value: Any) -> Iterable[Any]:
    return (value.__func__,)


@_parts.register
def _(value: CellType) -> Iterable[Any]:
    try:
        return (value.cell_contents,)
    except ValueError:  # no value yet
        return ()


@_parts.register
def _(value: Mapping) -> Iterable[Any]:  # type: ignore[type-arg]
    return [part for entry in value.items() for part in entry]


@_parts.register(list)
@_parts.register(tuple)
def _(value: Any) -> Iterable[Any]:
    return value


@_parts.register(set)
@_parts.register(frozenset)
def _(value: Any) -> Iterable[Any]:
    return sorted(map(repr, value))


@_parts.register
def _(value: np.ndarray) -> Iterable[Any]:
    return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()


@_parts.register
def _(value: Tensor) -> Iterable[Any]:
    return (value.detach().cpu().numpy(),)


@_parts.register
def _(value: nn.Module) -> Iterable[Any]:
    return repr(value), value.state_dict()


@_parts.register
def _(value: SimpleNamespace) -> Iterable[Any]:
    return (vars(value),)


def _generated(name: str, entry: Any) -> bool:
    """Whether Python or pydantic made this entry of a class, of what else is there."""
    return name.startswith("_") and not isinstance(entry, FunctionType | staticmethod | classmethod | property)


def _named(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_named, inner))


def _of_user(module: str) -> str | None:
    """The source of a module that is not installed."""
    installed = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or any(Path(file).is_relative_to(folder) for folder in installed):
        return None
    return module_source(module)
