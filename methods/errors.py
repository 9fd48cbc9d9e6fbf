"""The exceptions that mean "your input is wrong": the command line prints one line and exits with code 2."""

import difflib
import traceback
from collections.abc import Iterable
from typing import Any


class MarginbenchError(Exception):
    """Wrong input: the message names the file, the key and what would be right."""


class ParameterError(MarginbenchError):
    """A wrong argument of a public function. The command line translates the parameter into its option.

    Args:
        parameter: its name, as in `data_dir`, where the command line has --data-dir.
        value: what was given.
        problem: what would be right, in words that fit both; starts with a small letter.
    """

    def __init__(self, parameter: str, value: Any, problem: str) -> None:
        super().__init__(f"{parameter}={value!r}: {problem}")
        self.parameter, self.value, self.problem = parameter, value, problem

    def __reduce__(self) -> tuple[Any, ...]:  # workers send it to the process that asked
        return type(self), (self.parameter, self.value, self.problem)


def one_line(error: BaseException) -> str:
    """Return `ValueError: the first line of its text` for an error message or a table."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def at_import(error: BaseException) -> str:
    """The same with the line that raised it: ` (my_module.py, line 12)`, of a module that cannot be imported."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if line and not file.startswith("<frozen importlib")]
    if isinstance(error, SyntaxError):  # whose text names it
        return one_line(error)
    return f"{one_line(error)} ({own[-1][0]}, line {own[-1][1]})" if own else one_line(error)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? known: a, b, x` for an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1) or [name for name in names if name.startswith(wrong)]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
