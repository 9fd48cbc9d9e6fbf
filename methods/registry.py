"""Finds methods: files in the family folders and the entry-point group `marginbench.methods`; plug-ins add theirs."""

import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any, TypeVar, get_args

from marginbench.methods.errors import MarginbenchError, one_line, suggest
from marginbench.methods.facts import Claim, Info
from marginbench.methods.method import ADDED, CONTRACT, Method
from marginbench.methods.spec import configure, parse_spec

ENTRY_POINTS = "marginbench.methods"
MATHS = "maths"  # the folder that holds no methods
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
    _validate(cls)
    _adapt(cls)
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
            reason = str(error) if isinstance(error, MarginbenchError) else one_line(error)
            logger.warning("plug-in %s of package %s is disabled: %s", entry.value, package, reason)
            _restore(before)
            failed.append(entry.module)
    return failed


def _restore(methods: dict[str, type[Method]]) -> None:
    _methods.clear()
    _methods.update(methods)


def hook_arguments(contract: int) -> dict[str, list[str]]:
    """The hooks and their arguments under a contract."""
    return {
        name: [key for key in inspect.signature(hook).parameters if ADDED.get((name, key), 1) <= contract]
        for name, hook in vars(Method).items()
        if inspect.isfunction(hook) and not name.startswith("_")
    }


@cache
def _scan() -> None:
    package = importlib.import_module("marginbench.methods")
    for found in pkgutil.walk_packages(package.__path__, prefix="marginbench.methods."):
        family, _, stem = found.name.removeprefix("marginbench.methods.").partition(".")
        if stem and not found.ispkg and family != MATHS:
            for cls in load_methods(importlib.import_module(found.name)):
                if (cls.info.family, cls.info.key) != (family, stem):
                    raise MarginbenchError(
                        f"{_file(cls)}: folder and file name say {family}/{stem},"
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


def _validate(cls: type[Method]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise MarginbenchError(f"{cls!r} is not a subclass of marginbench.methods.Method")
    where = f"{_file(cls)}, class {cls.__name__}"
    if not isinstance(getattr(cls, "info", None), Info):
        raise MarginbenchError(f"{where}: set `info: ClassVar[Info] = Info(key=..., title=..., ...)`")
    if not cls.__doc__:
        raise MarginbenchError(f"{where}: the docstring must give the objective, with shapes")
    _validate_hooks(cls, where)
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "unit" not in extra or field.is_required():
            raise MarginbenchError(f"{where}: declare {name!r} with param(default, doc, unit=, source=, search=)")
    for claim in cls.info.claims:
        if claim not in get_args(Claim):
            raise MarginbenchError(f"{where}: unknown claim {claim!r}: {suggest(claim, get_args(Claim))}")
    for fields in (*cls.info.presets.values(), {} if isinstance(cls.info.neutral, str) else cls.info.neutral):
        configure(cls, dict(fields))


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


def _file(cls: type[Method]) -> str:
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or cls.__module__)
