"""Finds methods: files in the family folders and the entry-point group `marginbench.methods`; plug-ins add theirs."""

import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any, TypeVar

from marginbench.methods.errors import MarginbenchError, at_import, suggest
from marginbench.methods.method import Method
from marginbench.methods.spec import configure, parse_spec
from marginbench.methods.validation import MATHS, file_of, hook_arguments, validate

ENTRY_POINTS = "marginbench.methods"
_methods: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])
logger = logging.getLogger(__name__)


def register(cls: M) -> M:
    """Add a method class to the registry, so that its key can be written wherever a spec is wanted.

    For classes of a notebook or script: files of this package, plug-ins and entry points are registered by themselves,
    and so are methods that are given to `run_all` as objects or classes.

        @register
        class MyMargin(Method):
            info: ClassVar[Info] = Info(key="my_margin", ...)

        run_all(methods=["ce", "my_margin(m=0.2)"])

    A class of the same file, or of the same notebook, replaces the one before.

    Raises:
        MarginbenchError: facts missing, hook misspelt or with wrong arguments, or the key already taken.
    """
    validate(cls)
    _adapt(cls)
    for key in (cls.info.key, *cls.info.presets):
        known = _find(key)
        if known is not None and file_of(known) != file_of(cls):
            raise MarginbenchError(
                f"{file_of(cls)}: the key {key!r} is already taken by {file_of(known)}: choose another Info.key"
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


def recreate(spec: str, source: str | None) -> Method:
    """Build the method of a record.

    Args:
        source: the hash of the plug-in that defined it; None for what is built in.

    Raises:
        MarginbenchError: as `create`; of a plug-in that is not loaded, it says how that is done.
    """
    if source is not None and parse_spec(spec)[0] not in rows():
        raise MarginbenchError(
            f"{spec} is of a plug-in that is not loaded: give its file with --plugin FILE.py, or load_plugin in Python"
        )
    return create(spec)


def load_methods(module: ModuleType) -> list[type[Method]]:
    """Register the methods that a module defines, all or, if one is refused, none of them.

    Raises:
        MarginbenchError: as `register`.
    """
    found = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    before = dict(_methods)
    try:
        return [register(cls) for cls in found]
    except MarginbenchError:
        _restore(before)
        raise


def forget(prefix: str) -> None:
    """Take the methods of modules whose names begin with `prefix` out of the registry."""
    for key in [key for key, cls in _methods.items() if cls.__module__.startswith(prefix)]:
        del _methods[key]


def load_installed(group: str, add: Callable[[Any], object]) -> list[str]:
    """Call `add` with each entry point of the group. Where that fails, a warning names the package.

    Returns:
        the modules that failed; none of their methods is registered.
    """
    failed = []
    for entry in importlib.metadata.entry_points(group=group):
        before = dict(_methods)
        try:
            add(entry.load())
        except (Exception, SystemExit) as error:  # a fault of another package must not stop those who do not use it
            package = entry.dist.name if entry.dist else "of unknown name"
            reason = str(error) if isinstance(error, MarginbenchError) else at_import(error)
            logger.warning("plug-in %s of package %s is disabled: %s", entry.value, package, reason)
            _restore(before)
            failed.append(entry.module)
    return failed


def _restore(methods: dict[str, type[Method]]) -> None:
    _methods.clear()
    _methods.update(methods)


@cache
def _scan() -> None:
    package = importlib.import_module("marginbench.methods")
    for found in pkgutil.walk_packages(package.__path__, prefix="marginbench.methods."):
        family, _, stem = found.name.removeprefix("marginbench.methods.").partition(".")
        if stem and not found.ispkg and family != MATHS:
            for cls in load_methods(importlib.import_module(found.name)):
                if (cls.info.family, cls.info.key) != (family, stem):
                    raise MarginbenchError(
                        f"{file_of(cls)}: folder and file name say {family}/{stem},"
                        f" Info says {cls.info.family}/{cls.info.key}"
                    )
    load_installed(ENTRY_POINTS, _register_target)


def _register_target(target: Any) -> None:
    if not isinstance(target, ModuleType):
        register(target)
    elif not load_methods(target):
        raise MarginbenchError(f"{target.__name__} defines no subclass of marginbench.methods.Method")


def _adapt(cls: type[Method]) -> None:
    """Let hooks of an older contract be called with the newest arguments: they receive those that they know."""
    for name, known in hook_arguments(cls.info.contract).items():
        hook, newest = vars(cls).get(name), inspect.signature(getattr(Method, name))
        if hook is not None and len(known) < len(newest.parameters) and "adapted" not in vars(hook):
            setattr(cls, name, _dropping(hook, newest, known))


def _dropping(hook: Callable[..., Any], newest: inspect.Signature, known: list[str]) -> Callable[..., Any]:
    @wraps(hook)
    def adapted(*args: Any, **options: Any) -> Any:
        given = newest.bind(*args, **options).arguments
        return hook(*(given[name] for name in known))

    vars(adapted)["adapted"] = True  # a class may be registered again
    return adapted
