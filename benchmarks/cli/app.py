"""The program: what all commands share, and how what goes wrong becomes a line for each problem, and an exit code."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from marginbench.benchmarks.machine.streams import make_readable
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.interrupt import InterruptedBySignal, interruptible
from marginbench.benchmarks.runs.options import PLUGINS
from marginbench.methods.errors import MarginbenchError, ParameterError, SeveralError, joined


class _Commands(typer.core.TyperGroup):
    """Turns what goes wrong in a command into a line, or a list of several problems, and an exit code."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)  # prints --version and --help
        except BrokenPipeError:
            raise typer.Exit(0) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ParameterError as error:
            print(f"error: {joined(_in_options(error, self.commands[str(ctx.invoked_subcommand)]))}", file=sys.stderr)
            raise typer.Exit(2) from None
        except MarginbenchError as error:
            print(f"error: {error if isinstance(error, SeveralError) else joined(error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except MemoryError as error:
            print(
                f"error: out of memory{f': {error}' if str(error) else ''}; free some, or choose less data",
                file=sys.stderr,
            )
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, InterruptedBySignal) else signal.SIGINT
            what = {"run-all": "runs", "tune": "trials"}.get(str(ctx.invoked_subcommand))
            kept = f": finished {what} are kept; run the same command again for the rest"
            ended = "terminated" if number == signal.SIGTERM else "interrupted"
            print(f"{ended}{kept if what else ''}", file=sys.stderr)
            raise typer.Exit(128 + number) from None


app = typer.Typer(
    cls=_Commands,
    help="Train large-margin methods under one budget, enclose every test point's margin between a certified"
    " radius and the nearest adversarial example, and rank them.",
    epilog="Start with: marginbench run-all. Then: marginbench methods arcface. Exit codes: 0 all is well,"
    " 1 a run or check failed, 2 wrong input, 130 interrupted, 143 terminated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Plugins = Annotated[list[Path] | None, typer.Option("--plugin", metavar="FILE.py", help=f"{PLUGINS} Repeatable.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at a record that cannot be read, and check the files of all arrays.")
]


def main() -> None:
    """Entry point."""
    make_readable()
    try:
        with interruptible(), shown():
            app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # output piped into head: what is left would fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_options(error: ParameterError, command: Any) -> str:
    """The message of an error about a parameter, in terms of the command's options."""
    names = {parameter.name: parameter for parameter in command.params}
    parameter = names.get(error.parameter)
    if parameter is None and "option" in names:  # KEY=VALUE of a figure
        given = error.parameter if error.value is None else f"{error.parameter}={error.value}"
        return f"--option {given}: {error.problem}"
    if parameter is None:
        return str(error)
    name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name.upper()
    if error.value is False:
        return f"without {name}: {error.problem}"
    if error.value is True or error.value is None:
        return f"{name}: {error.problem}"
    values = error.value if isinstance(error.value, list | tuple) else [error.value]
    value = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"{name} {value}: {error.problem}"


def _version(asked: bool) -> None:
    if asked:
        print(f"marginbench {metadata.version('marginbench')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def say_what_loads(what: str) -> None:
    """Break the silence of the seconds in which libraries load, where they have to."""
    if "torch" not in sys.modules:
        logging.getLogger(__name__).info("%s; loading torch", what)


def refuse_nothing(records: Sequence[Any], folders: Sequence[Path]) -> None:
    if not records:
        raise MarginbenchError(f"{', '.join(map(str, folders))}: no records; make some with `marginbench run-all`")


def load_plugins(paths: list[Path] | None) -> None:
    from marginbench.benchmarks.plugins import load_plugins

    load_plugins(paths or ())
