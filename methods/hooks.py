"""What a hook did wrong, in words: its class, file and line, what came, and what is wanted."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from torch import Tensor

from marginbench.methods.errors import MarginbenchError

T = TypeVar("T")
NOTHING = object()


class Place(NamedTuple):
    """A line of a hook: `my_margin.py, line 12, hook loss of class MyMargin`."""

    file: str  # its name alone: records are read on other machines
    line: int
    hook: str
    owner: str  # the class that defines it
    helper: str = ""  # the line of another file of the author that the hook called, if it was there

    def __str__(self) -> str:
        hook = f"{self.file}, line {self.line}, hook {self.hook} of class {self.owner}"
        return f"{self.helper}, called by {hook}" if self.helper else hook


class HookError(MarginbenchError):
    """A hook returned something else than its contract says, or changed what it must leave alone."""

    def __init__(self, place: Place | str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem

    def __reduce__(self) -> tuple[Any, ...]:  # workers send it to the process that asked
        return type(self), (self.place, self.problem)


def place_of(hook: Callable[..., Any]) -> Place | str:
    """Where a hook is defined; of a callable that is no method of a class, its name."""
    function = inspect.unwrap(getattr(hook, "__func__", hook))
    owner = getattr(function, "__qualname__", "").split(".")[-2:-1]
    if not inspect.isfunction(function) or owner in ([], ["<locals>"]):
        return str(getattr(hook, "__name__", type(hook).__name__))
    return Place(Path(function.__code__.co_filename).name, function.__code__.co_firstlineno, function.__name__, *owner)


def returned(hook: Callable[..., Any], value: Any, kind: type[T], remedy: str) -> T:
    """The value that a hook has returned.

    Args:
        remedy: what would be right, as in "end it with `return net`".

    Raises:
        HookError: it is of another kind.
    """
    if not isinstance(value, kind):
        raise HookError(place_of(hook), f"returned {in_words(value)}, needed {kind.__name__}: {remedy}")
    return value


@contextmanager
def holding(hook: Callable[..., Any]) -> Iterator[None]:
    """A block that calls a hook, whose method is the same afterwards: what is frozen can be written all the same.

    Raises:
        HookError: the hook has set a field or another attribute of its method.
    """
    method = getattr(hook, "__self__", None)
    if not isinstance(method, BaseModel):
        yield
        return
    before = dict(vars(method))
    yield
    now = dict(vars(method))
    for name in {**before, **now}:
        old, new = before.get(name, NOTHING), now.get(name, NOTHING)
        if old is not new and not isinstance(getattr(type(method), name, None), cached_property):
            vars(method).clear()
            vars(method).update(before)  # so that it keeps its name, and is told again where it is asked again
            came = "nothing" if new is NOTHING else in_words(new) if old is NOTHING else f"{new!r} where it was {old!r}"
            raise HookError(
                place_of(hook),
                f"set self.{name} to {came}: a method holds no state: keep it in a buffer of the net, or in ctx.table",
            )


def in_words(value: Any) -> str:
    """`None`, `a tensor [32, 5] float32`, `a tuple (a tensor [] float32, a dict)`, `a str`."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if type(value) is tuple:
        return f"a tuple ({', '.join(map(in_words, value))})"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
