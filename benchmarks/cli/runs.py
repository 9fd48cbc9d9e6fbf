"""Commands that train and evaluate, and say how far they are."""

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from marginbench.benchmarks.cli.app import app, say_what_loads
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.runs.cli_options import with_run_options
from marginbench.benchmarks.runs.options import SUITE, RunOptions
from marginbench.methods.words import counted

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.run_all import RunOutcome


@app.command("run-all")
@with_run_options
def run_all_command(
    chosen: RunOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do, and how much time and memory it takes.")
    ] = False,
) -> None:
    """Train, evaluate and rank methods.

    Finished runs are not repeated: stop at any time, and run the same command again for the rest. Several commands, on
    one machine or many, may share the output folder. With --stop-after the command ends by itself, in time for a limit
    such as that of Slurm. Exit code 1 if runs failed.
    """
    from marginbench.benchmarks.runs.forks import load_early

    if chosen.jobs != 1 and chosen.device != "cuda" and not chosen.scheduler and not dry_run:
        load_early()
    suite = f"the suite of {chosen.tuned}" if chosen.tuned and not chosen.suite else f"suite {chosen.suite or SUITE}"
    say_what_loads(f"{suite}, into {chosen.out}")
    from marginbench.benchmarks.runs.run_all import run_all
    from marginbench.benchmarks.runs.work import prepare

    if dry_run:
        from marginbench.benchmarks.runs.forecast import forecast

        print(forecast(prepare(**vars(chosen))))
        return
    report(run_all(**vars(chosen)), chosen)


@app.command("status")
def status_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Output folders of run-all. Default: results/local.")
    ] = None,
) -> None:
    """Say what is done, running, failed and left."""
    from marginbench.benchmarks.runs.status import status

    print(status(folders or [RESULTS]))


def report(outcome: "RunOutcome", chosen: RunOptions) -> None:
    """What a call of `run_all` did; exit code 1 if runs failed."""
    again = f", {outcome.resumed} had a record already (--fresh repeats them)" if outcome.resumed else ""
    done = f"{counted(outcome.repeated, 'run')} done{again}."
    if chosen.only == "train":
        print(f"{done}\nNetworks: {outcome.networks}/<id>.safetensors and .json")
    else:
        from marginbench.benchmarks.tables.terminal import show_after

        if outcome.records:
            show_after(outcome.records, outcome.runs, outcome.rows if chosen.methods or chosen.plugin else ())
        print(done)
        if outcome.files:
            print("Tables:  " + "  ".join(map(str, outcome.files)))
            print(f"Records: {outcome.runs}/<id>.json and .npz")
        if outcome.report is not None:
            print(f"Report:  {outcome.report}")
        elif outcome.files:
            print(f"Report:  marginbench report {quote(str(outcome.runs.parent))} --open  makes it, and shows it")
    if outcome.untrained:
        runs = counted(outcome.untrained, "run")
        print(f"Without a network yet in {outcome.networks}: {runs}; --only train makes them")
    if outcome.left:
        print(f"Left after {chosen.stop_after}: {counted(outcome.left, 'run')}; the same command goes on from here.")
    if outcome.elsewhere:
        print(f"Left to other processes: {counted(outcome.elsewhere, 'run')}; see marginbench status {chosen.out}")
    if outcome.failed:
        print(f"{outcome.failed} of the runs failed (--retry repeats them).", file=sys.stderr)
        raise typer.Exit(1)
