"""Commands about networks: outside ones, and those that were kept."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from marginbench.benchmarks.cli.app import Plugins, app, load_plugins, say_what_loads
from marginbench.benchmarks.cli.runs import report
from marginbench.benchmarks.extras import ONNX_RUNTIME
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.runs.options import MEMORY, SETS, SUITE, Device, RunOptions
from marginbench.methods.errors import MarginbenchError, ParameterError


@app.command("evaluate")
def evaluate_command(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FACTORY",
            help="FACTORY() gives an nn.Module, images [B,C,H,W] to logits [B,K]. Or a TorchScript or .onnx file.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="ID|ROW", help="Instead of a model: a network that run-all has trained, or all of a row."),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(metavar="PRESET|SUITE|FILE.toml", help="quick, exhaustive, or evaluate as another suite does."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="As in evaluation.epsilon.linf=0.05 or evaluation.points=50. Repeatable."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="State dict or checkpoint (torch.save), or .safetensors. Default: the factory's."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.npz|FOLDER",
            help="digits, mnist, ..., as suites name them. Images of a folder are scaled by --set data.size=N."
            " Default: the suite's.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", envvar="MARGINBENCH_DATA", show_default=False, help=SETS),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Radii, attacks, certificates, points: name or FILE.toml. Default: digits, or the run's."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="ROW", help="Name of the row. Default: the factory's.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for records and tables.")] = RESULTS,
    mean: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The model wants (x - mean) / std: a number per channel.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="Radii stay in pixels of [0, 1].")] = None,
    device: Annotated[Device, typer.Option(help="Where to evaluate.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat a run that has a record already.")] = False,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help=MEMORY)] = None,
    plugin: Plugins = None,
) -> None:
    """Enclose the margins of any classifier, beside the methods of a suite.

    The file holds, say, `def make_net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))`:

    marginbench evaluate --model net.py:make_net --weights net.pt

    An nn.Sequential is certified through its layers; of other modules the table says why there is no certificate, if
    there is none. The images are those of the test split: a model that was trained on them is not measured by them.
    A record is reused for a model that answers the same. Exit code 1 if the evaluation fails.

    Networks that run-all has trained are kept, and nothing is trained again: marginbench evaluate --run mma
    --attacks exhaustive
    """
    say_what_loads(f"evaluate {model or run}")
    load_plugins(plugin)
    if (model is None) == (run is None):
        raise MarginbenchError("give --model, or --run for what run-all has trained")
    if run is not None:
        of_models = {"--weights": weights, "--data": data, "--name": name, "--mean": mean, "--std": std}
        if given := [option for option, value in of_models.items() if value is not None]:
            raise MarginbenchError(f"--run: {given[0]} is for a --model; what run-all has trained has its own")
        _evaluate_trained(
            run,
            RunOptions(
                suite=suite,
                evaluation=attacks,
                set=settings or (),
                out=out,
                device=device,
                redo="everything" if fresh else "nothing",
                data_dir=data_dir,
                memory=memory,
            ),
        )
        return
    from marginbench.benchmarks.models.evaluate import evaluate_model
    from marginbench.benchmarks.tables.terminal import show_after

    outcome = evaluate_model(
        str(model),
        weights,
        data,
        suite or SUITE,
        name,
        out,
        _numbers("mean", mean),
        _numbers("std", std),
        attacks=attacks,
        set=settings or (),
        device=device,
        fresh=fresh,
        data_dir=data_dir,
        memory=memory,
    )
    record = outcome.record
    show_after(outcome.records, outcome.path.parent, [record.method])
    seconds = record.cost.get("evaluation_seconds")
    if outcome.resumed:
        print(f"{record.method} had a record already, of {record.finished} (--fresh repeats the run).")
    elif record.status == "done":
        print(f"{record.method} evaluated in {seconds:.1f} s.")
    print("Tables: " + "  ".join(map(str, outcome.files)))
    print(f"Record: {outcome.path}")
    if record.status == "failed":
        print(f"{record.method} failed: {record.error}", file=sys.stderr)
        raise typer.Exit(1)


@app.command("networks")
def networks_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Output folders of run-all. Default: results/local.")
    ] = None,
) -> None:
    """List the networks that run-all has trained: row, seed, size, file and hash.

    From Python: `net, info = marginbench.benchmarks.load_network(FILE)`.
    """
    from marginbench.benchmarks.runs.networks import table

    print(table(folders or [RESULTS]))


@app.command("export")
def export_command(
    what: Annotated[str, typer.Argument(metavar="ID|FILE", help="First digits of its id, or the path of its file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Name of the files, without suffix.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder of run-all, where ids are found.")] = RESULTS,
    network: Annotated[
        str | None, typer.Option(metavar="FILE.py:FUNCTION", help="What builds it, where that is a file of your own.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a trained network for others: weights as .safetensors, a .toml that says how to build it, and .onnx.

    Nothing in them is executed when they are loaded. The ONNX graph is compared with the network if ONNX Runtime is
    installed: pip install 'marginbench[onnx]'. Its operators are of set 18, without those that onnx2torch cannot read,
    so that `evaluate --model` reads it.
    """
    load_plugins(plugin)
    from marginbench.benchmarks.training.export import export

    done = export(what, output, out, network)
    print("wrote " + "  ".join(map(str, done.files)))
    if done.without_onnx is not None:
        print(f"no .onnx: it {done.without_onnx}")
    elif done.agreement is None:
        print(f"not compared with ONNX Runtime, which is not installed: {ONNX_RUNTIME.advice}")
    else:
        print(f"logits agree with those of ONNX Runtime to {done.agreement:.0e} of the largest one")


def _evaluate_trained(run: str, options: RunOptions) -> None:
    from marginbench.benchmarks.runs.run_all import evaluate_trained

    report(evaluate_trained(run, options), options)


def _numbers(parameter: str, text: str | None) -> list[float] | None:
    """Read `0.5,0.4`."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        problem = "write one number per channel, as in 0.49,0.48,0.45"
        raise ParameterError(parameter, text, problem) from None
