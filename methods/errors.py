"""The exceptions that mean "your input is wrong": the command line prints a line for each problem, and exits with 2."""

import difflib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from marginbench.methods.words import counted

SHOWN = 20  # problems of one input that are told at once


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


class SeveralError(MarginbenchError):
    """Several problems of one input: its text is a list with a line for each, up to `SHOWN`.

    Args:
        head: begins it, as in "suite mine.toml: ", or nothing.
        problems: in words.
    """

    def __init__(self, head: str, problems: Sequence[str]) -> None:
        super().__init__(head, problems)
        self.head, self.problems = head, problems

    def __str__(self) -> str:
        lines = [f"- {problem}" for problem in map(joined, self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"- and {len(self.problems) - SHOWN} more")
        return "\n".join([f"{self.head}{len(self.problems)} problems:", *lines])


class Problems:
    """Collects what is wrong with an input, so that all of it is told at once.

    Args:
        where: begins the message, as in "suite mine.toml".
    """

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._found: list[MarginbenchError] = []

    def so_far(self) -> str:
        """`, 3 problems so far`, to follow a line on the progress; nothing where there is none."""
        count = len(self._found)
        return f", {counted(count, 'problem')} so far" if count else ""

    def add(self, problem: str) -> None:
        self._found.append(MarginbenchError(problem))

    @contextmanager
    def collected(self) -> Iterator[None]:
        """A block whose `MarginbenchError` is kept for later."""
        try:
            yield
        except MarginbenchError as error:
            self._found.append(error)

    def report(self) -> None:
        """Raise what was found: one problem as it is, several as a list with a line for each, up to `SHOWN`.

        Raises:
            MarginbenchError: something was found.
        """
        if not self._found:
            return
        head = f"{self._where}: " if self._where else ""
        first = self._found[0]
        if len(self._found) == 1:
            raise first if not head else _under(head, first)
        raise SeveralError(head, [text for error in self._found for text in _texts(error)])


def _texts(error: MarginbenchError) -> Sequence[str]:
    return error.problems if isinstance(error, SeveralError) else [str(error)]


def _under(head: str, error: MarginbenchError) -> MarginbenchError:
    if isinstance(error, SeveralError):
        return SeveralError(f"{head}{error.head}", error.problems)
    return MarginbenchError(f"{head}{error}")


def joined(text: object) -> str:
    """The text on one line: what libraries say may have several."""
    return " ".join(filter(None, (line.strip() for line in str(text).splitlines())))


def one_line(error: BaseException) -> str:
    """Return `ValueError: the first line of its text` for an error message or a table."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def all_lines(error: BaseException) -> str:
    """Return `ValueError: all of its text`, of libraries that give the reason on a later line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


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
    close = [name for name in names if wrong and name.startswith(wrong)] or difflib.get_close_matches(wrong, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
