"""Loads a user's Python file: a plug-in, an attack, a model or a network."""

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from marginbench.methods.errors import MarginbenchError, one_line, suggest

USER_MODULE = "marginbench_user_"  # begins the module names of users' files
BUILT_IN = "marginbench."  # begins the names of our own modules

_sources: dict[str, str] = {}  # by module
_neighbours: dict[str, Path] = {}  # modules that users' files imported from their own folders


def load_user_file(path: str | Path, kind: str) -> ModuleType:
    """The module of a user's file, executed once for each path and content: an edited file is a new module.

    While it is executed, it can import other files of its folder; they do not count as its content. The module is
    in `sys.modules`, where dataclasses and pickle look.

    Args:
        path: of a file whose name ends in .py.
        kind: what the file is to the user: "plug-in", "attack", "model", "network". Error messages begin with it.

    Raises:
        MarginbenchError: no such file, no Python file, or its code fails: with file, line and error.
    """
    path = Path(path).expanduser().resolve()
    source = _read(path, kind)
    name = _module_name(path, source)
    known = sys.modules.get(name)
    if known is not None:
        return known
    module = ModuleType(name)
    module.__file__ = str(path)
    _sources[name] = hashlib.sha256(source).hexdigest()[:16]
    sys.modules[name] = module
    try:
        with user_code(path, kind):
            exec(compile(source, path, "exec", dont_inherit=True), vars(module))  # the bytes that were hashed
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_source(name: str) -> str | None:
    """The first 16 hexadecimal digits of the SHA-256 of the file that defines a module, for records.

    Editing a user's file makes its records stale. Of a file that `load_user_file` has loaded, this is what was
    executed, whatever the file holds by now; of other packages, what it held when this was first asked.

    Returns:
        None for the modules of marginbench, which change with a revision or a schema, and for what has no file, as in a
        notebook.
    """
    if name.startswith(BUILT_IN):
        return None
    if name not in _sources:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not Path(file).is_file():
            return None
        _sources[name] = source_digest(file)[:16]
    return _sources[name]


def load_function(spec: str, kind: str) -> tuple[Callable[..., Any], Path]:
    """The function or class that `FILE.py:NAME` names, and the resolved path of the file.

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
    return function, path


def source_digest(path: str | Path) -> str:
    """The SHA-256 of the file's bytes, those that `load_user_file` executes.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


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
    for name in [name for name, home in _neighbours.items() if home != folder]:  # of one name in two folders
        sys.modules.pop(name, None)
        del _neighbours[name]
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, MarginbenchError) and str(path) in str(error):
            raise
        reason = str(error) if isinstance(error, MarginbenchError) else one_line(error)
        raise MarginbenchError(f"{kind} {path}{_place(error, path)}: {reason}") from error
    finally:
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


def _module_name(path: Path, source: bytes) -> str:
    return f"{USER_MODULE}{path.stem}_{hashlib.sha256(bytes(path) + b'|' + source).hexdigest()[:12]}"


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
