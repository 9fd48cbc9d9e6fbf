"""Plug-ins: files of users and entry points of other packages, which add methods, attacks, networks and more."""

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from marginbench.benchmarks.registry import REGISTRIES
from marginbench.methods import MarginbenchError, Method, names
from marginbench.methods.errors import Problems
from marginbench.methods.registry import forget, load_installed, load_methods
from marginbench.methods.userfile import USER_MODULE, forget_user_file, load_user_file, versions

ENTRY_POINTS = "marginbench.plugins"
KINDS = "an attack, a certificate, a probe, a doubt, a network or a transform"

_loaded: list[Path] = []


def load_plugin(path: str | Path) -> list[type[Method]]:
    """Load a file: what it defines can then be named like what is built in. Returns its methods, if any.

    A method is a subclass of `marginbench.methods.Method`; other things are added by a decorator in the file. A file
    that was edited replaces all that it defined before.

    Raises:
        MarginbenchError: no such file, its code fails, a name in it is taken, or it defines nothing.
    """
    load_installed_plugins()
    module = load_user_file(path, "plug-in")
    methods = _take(module)
    _forget_other_versions(module)
    file = Path(str(module.__file__))
    if file not in _loaded:
        _loaded.append(file)
    return methods


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Load files; see `load_plugin`.

    Raises:
        MarginbenchError: for all of those that cannot be loaded, together.
    """
    problems = Problems()
    for path in paths:
        with problems.collected():
            load_plugin(path)
    problems.report()


@cache
def load_installed_plugins() -> None:
    """Load what other packages offer: modules named by entry points of the group `marginbench.plugins`."""
    names()  # first: no plug-in must take the key of a built-in method
    for module in load_installed(ENTRY_POINTS, _take):
        for registry in REGISTRIES:
            registry.drop(registry.added_by(module))


def loaded_files() -> list[Path]:
    """The plug-in files of this process, in the order in which they were loaded: other processes need them too."""
    return list(_loaded)


def forget_plugins() -> None:
    """Remove what came from plug-in files: other versions of them may follow, from other files."""
    _forget(USER_MODULE)
    for file in _loaded:
        forget_user_file(file)
    _loaded.clear()


def _forget_other_versions(module: ModuleType) -> None:
    for name in versions(str(module.__file__)):
        if name != module.__name__:
            _forget(name)
            del sys.modules[name]  # so that it is executed if the file becomes what it was


def _forget(prefix: str) -> None:
    """Remove what the modules whose names begin so have added."""
    forget(prefix)
    for registry in REGISTRIES:
        registry.forget(prefix)


def _take(module: ModuleType) -> list[type[Method]]:
    methods = load_methods(module)
    if not methods and not any(registry.added_by(module.__name__) for registry in REGISTRIES):
        raise MarginbenchError(
            f"plug-in {module.__file__}: defines no subclass of marginbench.methods.Method, and adds by decorator"
            f" neither {KINDS.replace(' or ', ' nor ')}"
        )
    return methods
