"""Things found by name: attacks, certificates, networks, transforms. A decorator adds one, from any file."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from marginbench.methods.errors import MarginbenchError, suggest
from marginbench.methods.userfile import BUILT_IN, USER_MODULE, module_source

T = TypeVar("T")


class _Origin(NamedTuple):
    module: str
    file: str  # the module's name where there is no file
    source: str | None  # of the file; of what has none see `source_of`
    maker: Any
    line: int  # 0 where it is not known


class Registry(dict[str, T]):
    """Name to thing. Each remembers the module that it comes from."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        super().__init__()
        self._reserved = frozenset(reserved)
        self._origins: dict[str, _Origin] = {}
        REGISTRIES.append(self)

    def add(self, name: str, thing: T, maker: Any = None) -> None:
        """Add a thing. A file that is loaded again replaces what it has added before.

        Args:
            maker: the function or class whose module the thing belongs to. Default: the thing itself.

        Raises:
            MarginbenchError: another file has the name already, a user's file has it twice, or it is reserved.
        """
        origin = _origin(thing if maker is None else maker)
        if name in self._reserved:
            raise MarginbenchError(f"{origin.file}: the name {name!r} is reserved: choose another")
        known = self._origins.get(name)
        if known is not None and known.file != origin.file:
            ours, theirs = sorted((known, origin), key=lambda o: o.module.startswith(BUILT_IN), reverse=True)
            raise MarginbenchError(f"{theirs.file}: the name {name!r} is already taken by {ours.file}: choose another")
        executed_once = origin.module.startswith(USER_MODULE)  # packages can be reloaded, and cells run again
        if known is not None and executed_once and known.module == origin.module and known.line != origin.line:
            lines = f"lines {known.line} and {origin.line}"
            raise MarginbenchError(f"{origin.file}: the name {name!r} is given twice, in {lines}: choose another")
        self[name] = thing
        self._origins[name] = origin

    def find(self, name: str, what: str) -> T:
        """The thing of this name; `what` says what it is, as in "attack".

        Raises:
            MarginbenchError: there is none.
        """
        if name not in self:
            raise MarginbenchError(f"unknown {what} {name!r}: {suggest(name, self)}")
        return self[name]

    def source(self, name: str) -> str | None:
        """The first 16 hexadecimal digits of the SHA-256 of its file, for records; None for what is built in.

        Editing an outside file makes records stale; built-in things change with a revision or a schema. Of what was
        defined without a file, in a notebook, it is that of the code.
        """
        from marginbench.methods.code import source_of  # imports torch

        origin = self._origins[name]
        return origin.source or source_of(origin.maker)  # of a cell, once all that it uses is there

    def added_by(self, module: str) -> list[str]:
        """The names that the module has added."""
        return [name for name, origin in self._origins.items() if origin.module == module]

    def forget(self, prefix: str) -> None:
        """Remove what comes from modules whose names begin with `prefix`: another version of them may follow."""
        self.drop([name for name, origin in self._origins.items() if origin.module.startswith(prefix)])

    def drop(self, names: Iterable[str]) -> None:
        """Remove these names."""
        for name in names:
            del self[name], self._origins[name]


REGISTRIES: list[Registry[Any]] = []  # all of them, for whoever loads or forgets a plug-in


def import_all(package: str) -> None:
    """Import the modules of a package, whose decorators then add what they define."""
    folder = importlib.import_module(package)
    for found in pkgutil.iter_modules(folder.__path__, prefix=f"{package}."):
        importlib.import_module(found.name)


def _origin(maker: Any) -> _Origin:
    module = maker.__module__
    file = str(getattr(sys.modules.get(module), "__file__", None) or module)
    return _Origin(module, file, module_source(module), maker, _line(maker))


def _line(maker: Any) -> int:
    """Where the function, or the first method of the class, is defined."""
    functions = vars(maker).values() if isinstance(maker, type) else [maker]
    return min((inspect.unwrap(f).__code__.co_firstlineno for f in functions if inspect.isfunction(f)), default=0)
