"""A figure: what it is drawn of, how one is added, and which options it takes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from marginbench.benchmarks.registry import Registry
from marginbench.methods import MarginbenchError

Of = Literal["suite", "suites", "networks", "tuning"]
"""The records of one suite, those of all suites, the kept networks of one suite as well, or its tuned rows."""


@dataclass(frozen=True)
class Figure:
    """A function from a source, see `rows.rows_of`, to an Altair chart. Its keyword-only arguments are options."""

    name: str
    of: Of
    function: Callable[..., Any]

    @property
    def about(self) -> str:
        """What it shows, in a line: the first of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def options(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


FIGURES: Registry[Figure] = Registry()
F = TypeVar("F", bound=Callable[..., Any])


def figure(of: Of = "suite") -> Callable[[F], F]:
    """A decorator: the function is a figure, under its own name.

    Raises:
        MarginbenchError: it has no docstring, whose first line says what it shows.
    """

    def add(function: F) -> F:
        if not inspect.getdoc(function):
            raise MarginbenchError(
                f"{function.__module__}.{function.__qualname__}: a figure says in a docstring what it shows"
            )
        FIGURES.add(function.__name__, Figure(function.__name__, of, function), function)
        return function

    return add
