"""Commands that say whether results can be repeated, and whether the machine can be trusted."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from marginbench.benchmarks.cli.app import Plugins, app, load_plugins, say_what_loads
from marginbench.benchmarks.runs.options import SETS, VERIFIED, Device
from marginbench.methods.words import counted


@app.command("verify")
def verify_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Runs to do again. Default: {VERIFIED}; with --methods, all of those rows."),
    ] = None,
    methods: Annotated[str | None, typer.Option(metavar="SPEC[,SPEC...]", help="Rows to draw from.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another one draws other runs.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes. Default: as many as are worth starting.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", envvar="MARGINBENCH_DATA", show_default=False, help=SETS),
    ] = None,
    suite_dir: Annotated[
        Path, typer.Option("--suite-dir", metavar="DIR", help="Where the files lie that a suite names.")
    ] = Path(),
    plugin: Plugins = None,
) -> None:
    """Do some runs again, and say whether their records can be repeated here.

    marginbench verify results/reference/digits --sample 3

    An answer for each run. "same bits": all arrays and losses are equal, which is promised on CPUs for the same
    processor, thread count, versions and commit. "a seed's spread": something of these differs, which the list above
    the table names, and so do the bits, but no metric by more than 4 standard deviations of the row's other seeds, or
    of the other rows' seeds where those differ more. "no": anything else, such as a method of another revision, arrays
    that were changed, metrics that do not follow from them, or other bits where nothing recorded differs.

    Each run has the threads of its record. Nothing is written below DIR. Exit code 1 if an answer is "no".
    """
    say_what_loads("verify")
    from marginbench.benchmarks.runs.verify import Question, render, verify
    from marginbench.methods.spec import split_specs

    rows = None if methods is None else split_specs(methods)
    found = verify(Question(folders, rows, sample, seed, jobs, data_dir, suite_dir, plugin or ()))
    print(render(found))
    raise typer.Exit(0 if found.agrees else 1)


@app.command("freeze")
def freeze_command(
    where: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR|RECORD.json]", help="Records, or one of them. Default: what is installed here."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")] = None,
) -> None:
    """Write the versions of all packages as a constraints file for pip and uv.

    Those that are installed here, or those that records were made with:

    marginbench freeze results/reference/digits -o constraints.txt && uv pip install -c constraints.txt .

    A build of torch that is not on PyPI needs its index, which a comment in the file names.
    """
    from marginbench.benchmarks.machine.files import ensure_file_writable, write_atomically
    from marginbench.benchmarks.records.constraints import constraints, environments_in

    if output is not None:
        ensure_file_writable(output)
    if where is None:
        say_what_loads("freeze")
        import torch

        from marginbench.benchmarks.records.provenance import environment

        text = constraints([environment(torch.device("cpu"))], "this environment")
    else:
        text = constraints(environments_in(where), str(where))
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text.encode())


@app.command("doctor")
def doctor_command(
    device: Annotated[Device, typer.Option(help="Where to evaluate.")] = "auto",
    every: Annotated[bool, typer.Option("--all", help="Show every estimator, not only the best ones.")] = False,
    plugin: Plugins = None,
) -> None:
    """Check the evaluation on this machine; attacks and certificates of plug-ins with it.

    Networks whose margins or faults are known go through every attack, certificate and doubt, a model whose numbers are
    known through all of it, from the file of images to the cells of the table. Convolutions are compared in both memory
    layouts. Exit code 1 if a check fails.
    """
    from marginbench.benchmarks.runs.forks import load_early

    if device != "cuda":
        load_early()
    say_what_loads("doctor")
    load_plugins(plugin)
    from marginbench.benchmarks.evaluation.doctor import table
    from marginbench.benchmarks.machine.device import resolve_device
    from marginbench.benchmarks.models.examination import examine

    results = examine(resolve_device(device))
    print(table(results, every))
    failed = sum(result.verdict != "pass" for result in results)
    print(f"\n{failed} of {counted(len(results), 'check')} failed" if failed else f"\nall {len(results)} checks passed")
    raise typer.Exit(1 if failed else 0)
