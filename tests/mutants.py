"""Broken twins of functions: the same source with one expression changed."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def mutated(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """The function with `new` in the place of `old` in its source, without its decorators."""
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def ") :]
    assert old in source, f"{old!r} is not in {function.__qualname__}: the mutant must follow the code"
    inside = dict(inspect.unwrap(function).__globals__)
    exec(source.replace(old, new), inside)
    twin: Callable[..., Any] = inside[function.__name__]
    return twin
