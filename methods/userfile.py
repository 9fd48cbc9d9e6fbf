"""Loads a user's Python file: a plug-in, an attack, a model or a network."""

import hashlib
import importlib
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from marginbench.methods.errors import MarginbenchError, one_line, suggest
from marginbench.methods.usercontent import digest

USER_MODULE = "marginbench_user_"  # begins the module names of users' files
BUILT_IN = "marginbench."  # begins the names of our own modules

_sources: dict[str, str] = {}  # SHA-256 by module that `load_user_file` has made
_imported_as: dict[str, tuple[dict[str, Any], str]] = {}  # other modules: the specs of their folder, and the SHA-256
_neighbours: dict[str, Path] = {}  # modules that users' files imported from their own folders


def load_user_file(path: str | Path, kind: str) -> ModuleType:
    """The module of a user's file, executed once for each path and content: an edited file is a new module.

    While it is executed, it can import other files of its folder, which count as its content, as do files that its code
    names. The module is in `sys.modules`, where dataclasses and pickle look.

    Args:
        path: of a file whose name ends in .py.
        kind: what the file is to the user: "plug-in", "attack", "model", "network". Error messages begin with it.

    Raises:
        MarginbenchError: no such file, no Python file, or its code fails: with file, line and error.
    """
    path = Path(path).expanduser().resolve()
    code = _read(path, kind)
    try:
        source = digest(path, code)
    except OSError as error:
        raise MarginbenchError(f"{kind} {path}: {error.filename} cannot be read ({error.strerror})") from None
    name = f"{USER_MODULE}{path.stem}_{hashlib.sha256(bytes(path) + b'|' + source.encode()).hexdigest()[:12]}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    module = ModuleType(name)
    module.__file__ = str(path)
    _sources[name] = source
    sys.modules[name] = module
    _forget_neighbours(lambda home: home == path.parent)  # one of them may have been edited
    try:
        with user_code(path, kind):
            exec(compile(code, path, "exec", dont_inherit=True), vars(module))  # the bytes that were hashed
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_source(name: str) -> str | None:
    """The first 16 hexadecimal digits of the SHA-256 of the file that defines a module, for records.

    Editing a user's file, or one that it imports from its folder or names, makes its records stale. Of a file that
    `load_user_file` has loaded, this is what was executed, whatever the file holds by now. Of other modules it is what
    the file, and those that it imports from its folder, held when this was first asked since the last import or reload.

    Returns:
        None for the modules of marginbench, which change with a revision or a schema, and for what has no file, as in a
        notebook: see `code.source_of`.
    """
    if name.startswith(BUILT_IN):
        return None
    if name in _sources:
        return _sources[name][:16]
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    specs, source = _imported_as.get(name, ({}, ""))
    if not specs or any(_spec(module) is not spec for module, spec in specs.items()):
        specs, source = _imported_as[name] = _as_imported(name, Path(file))
    return source[:16]


def _as_imported(name: str, file: Path) -> tuple[dict[str, Any], str]:
    """By what the module and those beside it were imported, and the SHA-256; of what is installed, its file alone."""
    code = file.read_bytes()
    if is_installed(file):
        return {name: _spec(name)}, hashlib.sha256(code).hexdigest()
    beside = f"{file.parent}{os.sep}"
    loaded = [n for n, module in list(sys.modules.items()) if str(getattr(module, "__file__", "")).startswith(beside)]
    return {module: _spec(module) for module in (name, *loaded)}, digest(file.resolve(), code, with_data=False)


def is_installed(file: Path) -> bool:
    """Whether it belongs to Python or to a package that was installed."""
    folders = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    return any(file.is_relative_to(folder) for folder in [*folders, site.getusersitepackages()])


def _spec(module: str) -> Any:
    """Each import and reload has one of its own."""
    return getattr(sys.modules.get(module), "__spec__", None)


class UserFunction(NamedTuple):
    """What `FILE.py:NAME` names."""

    function: Callable[..., Any]
    path: Path  # of the file, resolved
    source: str  # SHA-256 of what was executed: the file, together with those that it imports from its folder or names


def load_function(spec: str, kind: str) -> UserFunction:
    """The function or class that `FILE.py:NAME` names.

    Raises:
        MarginbenchError: as `load_user_file`; another form; or the file defines no such function.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise MarginbenchError(f"{kind} {spec!r}: write FILE.py:NAME, as in my_{kind.replace('-', '')}.py:make")
    path = Path(file).expanduser().resolve()
    module = load_user_file(path, kind)
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise MarginbenchError(f"{kind} {path}: no function or class {name!r}: {suggest(name, known)}")
    return UserFunction(function, path, _sources[module.__name__])


def versions(path: str | Path) -> list[str]:
    """The names of all modules that `load_user_file` made of this path, one for each content."""
    path = str(Path(path).expanduser().resolve())
    loaded = list(sys.modules.items())
    return [
        name for name, module in loaded if name.startswith(USER_MODULE) and getattr(module, "__file__", None) == path
    ]


def forget_user_file(path: str | Path) -> None:
    """Let the next `load_user_file` of this path execute the file again."""
    for name in versions(path):
        del sys.modules[name]


@contextmanager
def user_code(path: Path, kind: str) -> Iterator[None]:
    """A block that runs code of a user's file: it may import its neighbours, and its errors name the file and the line.

    Raises:
        MarginbenchError: any exception of the block, as in `plug-in /x/my.py, line 12: NameError: name 'f' is not ...`.
    """
    folder = path.parent
    _forget_neighbours(lambda home: home != folder)  # of one name in two folders
    before, writes = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # bytecode of a neighbour is not told from that of an edit in the same second
    importlib.invalidate_caches()
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, MarginbenchError) and str(path) in str(error):
            raise
        reason = str(error) if isinstance(error, MarginbenchError) else one_line(error)
        raise MarginbenchError(f"{kind} {path}{_place(error, path)}: {reason}") from error
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _is_neighbour(name, folder):
                _neighbours[name] = folder


def _read(path: Path, kind: str) -> bytes:
    if path.suffix != ".py":
        raise MarginbenchError(f"{kind} {path}: not a Python file, its name must end in .py")
    if not path.is_file():
        raise MarginbenchError(f"{kind} {path}: no such file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise MarginbenchError(f"{kind} {path}: cannot be read ({error.strerror})") from None


def _forget_neighbours(chosen: Callable[[Path], bool]) -> None:
    """Let those be imported again whose folder is chosen."""
    for name in [name for name, home in _neighbours.items() if chosen(home)]:
        sys.modules.pop(name, None)
        del _neighbours[name]


def _is_neighbour(name: str, folder: Path) -> bool:
    top = folder / name.partition(".")[0]  # not whatever lies below the folder: a virtual environment may
    file = Path(getattr(sys.modules[name], "__file__", None) or "")
    return file == top.with_suffix(".py") or file.is_relative_to(top)


def _place(error: BaseException, path: Path) -> str:
    """Where in the file the error arose, `, line 12`; with the line of a neighbour if it arose there."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((Path(error.filename), error.lineno))
    own = [line for file, line in frames if file == path and line]
    other = [(file, line) for file, line in frames if file.parent == path.parent and file != path]
    place = f", line {own[-1]}" if own else ""
    return f"{place} ({other[-1][0].name}, line {other[-1][1]})" if other else place
