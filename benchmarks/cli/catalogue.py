"""Commands about methods and suites: lists, explanations, new ones."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from marginbench.benchmarks.cli.app import Plugins, app, load_plugins
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.words import counted


@app.command("methods")
def methods_command(
    key: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Show one method in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    plugin: Plugins = None,
) -> None:
    """List the methods, or explain one.

    For one: paper, formula, hyper-parameters, neutral setting, deviations.
    """
    load_plugins(plugin)
    from marginbench.benchmarks import describe
    from marginbench.methods import names

    if as_json:
        facts: Any = describe.facts(key) if key else [describe.facts(name) for name in names()]
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        print(describe.one(key) if key else describe.table())


@app.command("suites")
def suites_command(
    name: Annotated[str | None, typer.Argument(help="Show one suite in full: its name, or a FILE.toml.")] = None,
    as_toml: Annotated[bool, typer.Option("--toml", help="As a file to start a suite of your own from.")] = False,
    plugin: Plugins = None,
) -> None:
    """List the suites, or explain one.

    For one: what it reproduces, its source, the time to expect, all settings.
    """
    load_plugins(plugin)
    from marginbench.benchmarks import describe

    if as_toml:
        if name is None:
            raise MarginbenchError("--toml: name a suite, as in marginbench suites digits --toml")
        sys.stdout.write(describe.suite_toml(name))
    else:
        print(describe.one_suite(name) if name else describe.suites())


@app.command("new-method")
def new_method_command(
    name: Annotated[str, typer.Argument(help="Key of the method and name of the file, as in my_margin.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where to write it.")] = Path(),
) -> None:
    """Write a method file to start from."""
    from marginbench.benchmarks.contract.new_method import write_template

    path = write_template(name, folder)
    print(f"wrote {path}\ncheck it:  marginbench check {path}")
    print(f"rank it:   marginbench run-all --plugin {path} --methods ce,{name}")


@app.command("check")
def check_command(
    target: Annotated[str, typer.Argument(help="FILE.py of a method, or a spec such as 'arcface(m=0.4)'.")],
    plugin: Plugins = None,
) -> None:
    """Run the contract tests on a method.

    Says what fails and why; exit code 1 if something does.
    """
    load_plugins(plugin)
    from marginbench.benchmarks.contract.check import check, methods_of
    from marginbench.methods import spec_of

    failed = 0
    for method in methods_of(target):
        print(spec_of(method))
        for result in check(method):
            print(f"  {result.line()}", flush=True)
            failed += result.status == "failed"
    print(f"{counted(failed, 'check')} failed" if failed else "all checks passed")
    raise typer.Exit(1 if failed else 0)
