"""The command that tunes."""

from pathlib import Path
from typing import Annotated

import typer

from marginbench.benchmarks.cli.app import Plugins, app, say_what_loads
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.tuning import Objective, Pick
from marginbench.benchmarks.runs.options import MEMORY, SETS, SUITE, Device, RunOptions
from marginbench.benchmarks.runs.options import options as of_runs
from marginbench.benchmarks.tuning.options import FLOOR, TRIALS, Sampler, TuneOptions
from marginbench.methods.facts import Norm

_HELP = {name: option.help for name, option in of_runs().items()}


@app.command("tune")
def tune_command(
    suite: Annotated[str, typer.Option(help=_HELP["suite"])] = SUITE,
    methods: Annotated[str | None, typer.Option(metavar="SPEC[,SPEC...]", help=_HELP["methods"])] = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Of each row, the published default included.")] = TRIALS,
    objective: Annotated[
        Objective,
        typer.Option(help="What is made large on the validation images; pareto: clean and robust accuracy."),
    ] = "validation_accuracy",
    norm: Annotated[
        Norm | None, typer.Option(help="Of the robust accuracy, at the suite's radius. Default: linf.")
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help=f"Of ce's clean accuracy by default: what a robust setting must reach. Default: {FLOOR:g}.",
        ),
    ] = None,
    pick: Annotated[
        Pick | None,
        typer.Option(
            help="From the front: the most robust above the floor, the default; the nearest to the best of both; the"
            " most accurate; the most robust."
        ),
    ] = None,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Search the suite's learning rate and weight decay too.")
    ] = False,
    sampler: Annotated[Sampler, typer.Option(help="What draws the trials, see optuna's documentation.")] = "tpe",
    seed: Annotated[int, typer.Option(metavar="N", help="Of the sampler, and of all trainings.")] = 0,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Output folder of the same command elsewhere: its trials count. Repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for trials and settings.")] = RESULTS,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_HELP["set"])] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes. Default: as many as are worth starting.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Tune every N-th row from the I-th on; --merge joins the shares.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = "auto",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", envvar="MARGINBENCH_DATA", show_default=False, help=SETS),
    ] = None,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", help=_HELP["deadline"])] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help=MEMORY)] = None,
    discard: Annotated[bool, typer.Option("--discard", help=_HELP["discard"])] = False,
    plugin: Plugins = None,
) -> None:
    """Give every row the same number of trials, and keep the best setting of each.

    Trial 0 is the published default; the others lie in the ranges beside the hyper-parameters, which `marginbench
    methods KEY` shows. A trial is a training, judged on validation images: test images are never looked at. One that
    diverges counts. Stop at any time, and run the same command again for the rest.

    marginbench tune --suite digits --trials 20

    marginbench run-all --suite digits --tuned results/local/digits/tuning/validation_accuracy

    The second command trains the settings with seeds that tuning has not seen, beside the defaults, and writes what
    was gained into tuning.md. On several machines: --shard 1/2 on one and 2/2 on the other, each with a folder of its
    own; then, without --shard, --merge the folder of the other. Exit code 1 if a row has no setting.
    """
    from marginbench.benchmarks.runs.forks import load_early
    from marginbench.methods.spec import split_specs

    chosen = TuneOptions(
        methods=None if methods is None else split_specs(methods),
        trials=trials,
        objective=objective,
        norm=norm,
        floor=floor,
        pick=pick,
        recipe=recipe,
        sampler=sampler,
        seed=seed,
        merge=merge or (),
        run=RunOptions(
            suite=suite,
            device=device,
            out=out,
            set=settings or (),
            discard=discard,
            jobs=jobs,
            memory=memory,
            data_dir=data_dir,
            shard=shard,
            deadline=deadline,
            plugin=plugin or (),
        ),
    )
    if jobs != 1 and device != "cuda":
        load_early()
    say_what_loads(f"tune suite {suite}, into {out}")
    from marginbench.benchmarks.tuning.tune import tune
    from marginbench.benchmarks.tuning.words import summary

    outcome = tune(chosen)
    print(summary(outcome, chosen))
    raise typer.Exit(1 if outcome.hopeless else 0)
