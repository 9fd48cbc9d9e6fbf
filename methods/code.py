"""The code of classes and functions that stand in no file, as in a notebook: an edited cell is another method."""

import dis
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, singledispatch
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from marginbench.methods.userfile import BUILT_IN, is_installed, module_source

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def source_of(thing: Any) -> str | None:
    """The first 16 hexadecimal digits of the SHA-256 of what defines a class or function, for records.

    That is its file, see `module_source`. Without a file it is its bytecode and all that this names in the same place:
    functions, classes, bases, objects, networks, numbers, arrays and imported files of the user. What the code fills,
    such as a list of losses, counts as it is when this is asked.

    Returns:
        None for what is built in.
    """
    if thing.__module__.startswith(BUILT_IN):
        return None
    in_file = module_source(thing.__module__)
    return in_file or hashlib.sha256("\n".join(_lines(thing, thing.__module__, {})).encode()).hexdigest()[:16]


def _lines(value: Any, home: str, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """What tells a value from others; of what the module `home` defines, whatever it is made of."""
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, ModuleType):
        yield f"{value.__name__} {_of_user(value.__name__)}"
    elif isinstance(value, type | FunctionType) and value.__module__ != home:
        yield f"{value.__module__}.{value.__qualname__} {_of_user(value.__module__)}"
    elif id(value) in seen:
        yield f"#{seen[id(value)][0]}"
    else:
        if not isinstance(value, tuple):  # equal constants of a cell are one object
            seen[id(value)] = (len(seen), value)  # kept: another could have its id
        yield type(value).__qualname__
        for part in (*_parts(value), *((type(value),) if type(value).__module__ == home else ())):
            yield from _lines(part, home, seen)


@singledispatch
def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of, in the same order in every process: by default its name, and what pickle keeps."""
    inner = getattr(value, "__wrapped__", None)
    if inner is not None:
        return (inner,)
    try:
        return getattr(value, "__name__", None), value.__reduce_ex__(4)
    except Exception:  # of what cannot be pickled, whatever it raises
        return ()


@_parts.register
def _(value: CodeType) -> Iterable[Any]:
    return value.co_code, *value.co_names, *value.co_varnames, *value.co_freevars, *value.co_consts


@_parts.register
def _(value: FunctionType) -> Iterable[Any]:
    if value.__globals__.get("__name__") != value.__module__:  # a decorator of a library, around the user's function
        return value.__qualname__, getattr(value, "__wrapped__", None)
    used = {name: value.__globals__[name] for name in sorted(_named(value.__code__) & value.__globals__.keys())}
    return value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, used


@_parts.register
def _(value: type) -> Iterable[Any]:
    return *value.__mro__[1:], {name: entry for name, entry in vars(value).items() if not _generated(name, entry)}


@_parts.register
def _(value: property) -> Iterable[Any]:
    return value.fget, value.fset


@_parts.register
def _(value: cached_property) -> Iterable[Any]:  # type: ignore[type-arg]
    return (value.func,)


@_parts.register
def _(value: MethodType) -> Iterable[Any]:
    return value.__func__, value.__self__


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
    return list(value)


@_parts.register(set)
@_parts.register(frozenset)
def _(value: Any) -> Iterable[Any]:
    return sorted(value, key=lambda item: repr(item) if isinstance(item, PLAIN) else getattr(item, "__qualname__", ""))


@_parts.register
def _(value: np.ndarray) -> Iterable[Any]:
    if value.dtype == object:
        return value.shape, value.tolist()
    return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()


@_parts.register
def _(value: Tensor) -> Iterable[Any]:
    if is_lazy(value) or value.is_meta or value.is_quantized or value.layout != torch.strided:
        return (repr(value),)
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    return str(value.dtype), tuple(value.shape), flat.numpy()


@_parts.register
def _(value: nn.Module) -> Iterable[Any]:
    return ({name: entry for name, entry in vars(value).items() if name != "training"},)


def _generated(name: str, entry: Any) -> bool:
    """Whether Python or pydantic made this entry of a class."""
    written = isinstance(entry, FunctionType | staticmethod | classmethod | property)
    return name == "_abc_impl" or (name.startswith("__") and not written and name != "__private_attributes__")


def _named(code: CodeType) -> set[str]:
    """The names that it looks up where it stands; `co_names` has those of attributes, too."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*map(_named, inner))


def _of_user(module: str) -> str | None:
    """The source of a module that is not installed."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None or is_installed(Path(file)) else module_source(module)
