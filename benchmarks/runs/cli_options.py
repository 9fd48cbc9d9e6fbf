"""The options of the command `run-all`, made of the fields of `RunOptions`."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from marginbench.benchmarks.runs.options import Option, RunOptions, options
from marginbench.methods.errors import ParameterError


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first argument is a `RunOptions`, an option for each field in its place."""

    @functools.wraps(command)
    def call(**words: Any) -> None:
        given = {name: _read(name, option, words) for name, option in options().items()}
        command(RunOptions(**given), **words)

    defaults = {name: field.default for name, field in inspect.signature(RunOptions).parameters.items()}
    declared = [made for name, option in options().items() for made in _declare(name, option, defaults[name])]
    signature = inspect.Signature([*declared, *list(inspect.signature(command).parameters.values())[1:]])
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: made.annotation for name, made in signature.parameters.items()}
    return call


def _declare(name: str, option: Option, default: Any) -> list[inspect.Parameter]:
    if option.flags:
        return [_parameter(flag, bool, False, help=text) for flag, (_, text) in option.flags.items()]
    if _repeatable(option):
        default, text = None, f"{option.help} Repeatable."
    else:
        default, text = default if option.command_default is ... else option.command_default, option.help
    facts = {"help": text, "metavar": option.metavar, "envvar": option.envvar, "show_default": option.envvar is None}
    return [_parameter(name, option.type, default, **facts)]


def _parameter(name: str, kind: Any, default: Any, **facts: Any) -> inspect.Parameter:
    text = name.replace("_", "-")
    annotation = Annotated[kind, typer.Option(f"--{text}/--no-{text}" if default is True else f"--{text}", **facts)]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _read(name: str, option: Option, words: dict[str, Any]) -> Any:
    """Take the value of a field out of the words of the command line."""
    if option.flags:
        given = [flag for flag in option.flags if words.pop(flag)]
        if len(given) > 1:
            raise ParameterError(given[1], True, f"does not go with --{given[0]}: name one of them")
        return option.flags[given[0]][0] if given else "nothing"
    value = words.pop(name)
    if value is None and _repeatable(option):
        return ()
    return option.parse(value) if option.parse else value


def _repeatable(option: Option) -> bool:
    return str(option.type).startswith("list")
