"""The command line. Heavy imports stay inside the commands, so that --help answers at once."""

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from marginbench.benchmarks.machine.streams import make_readable
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.runs.cli_options import with_run_options
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.interrupt import InterruptedBySignal, interruptible
from marginbench.benchmarks.runs.options import MEMORY, PLUGINS, SETS, SUITE, VERIFIED, Device, RunOptions
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT
from marginbench.benchmarks.tables.render import FORMATS
from marginbench.methods.errors import MarginbenchError, ParameterError

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.run_all import RunOutcome


class _Commands(typer.core.TyperGroup):
    """Turns what goes wrong in a command into one line and an exit code."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)  # prints --version and --help
        except BrokenPipeError:
            raise typer.Exit(0) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ParameterError as error:
            print(f"error: {_in_options(error, self.commands[str(ctx.invoked_subcommand)])}", file=sys.stderr)
            raise typer.Exit(2) from None
        except MarginbenchError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, InterruptedBySignal) else signal.SIGINT
            kept = ": finished runs are kept; run the same command again for the rest"
            ended = "terminated" if number == signal.SIGTERM else "interrupted"
            print(f"{ended}{kept if ctx.invoked_subcommand == 'run-all' else ''}", file=sys.stderr)
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
    if parameter is None:
        return str(error)
    name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.make_metavar()
    if error.value is False:
        return f"without {name}: {error.problem}"
    values = error.value if isinstance(error.value, list | tuple) else [error.value]
    value = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"{name}: {error.problem}" if error.value is None else f"{name} {value}: {error.problem}"


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
    one machine or many, may share the output folder. Exit code 1 if runs failed.
    """
    from marginbench.benchmarks.runs.forks import load_early

    if chosen.jobs != 1 and chosen.device != "cuda" and not chosen.scheduler and not dry_run:
        load_early()
    _say_what_loads(f"suite {chosen.suite}, into {chosen.out}")
    from marginbench.benchmarks.runs.run_all import prepare, run_all

    if dry_run:
        from marginbench.benchmarks.runs.forecast import forecast

        print(forecast(prepare(**vars(chosen))))
        return
    _report(run_all(**vars(chosen)), chosen)


@app.command("status")
def status_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Output folders of run-all. Default: results/local.")
    ] = None,
) -> None:
    """Say what is done, running, failed and left."""
    from marginbench.benchmarks.runs.status import status

    print(status(folders or [RESULTS]))


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
        typer.Option("--set", metavar="KEY=VALUE", help="As in evaluation.epsilon.linf=0.05. Repeatable."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="State dict or checkpoint (torch.save), or .safetensors. Default: the factory's."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.npz", help="digits, mnist, ..., as suites name them. Default: the suite's."),
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
    _say_what_loads(f"evaluate {model or run}")
    _load_plugins(plugin)
    if (model is None) == (run is None):
        raise MarginbenchError("give --model, or --run for what run-all has trained")
    if run is not None:
        of_models = {"--weights": weights, "--data": data, "--name": name, "--mean": mean, "--std": std}
        if given := [option for option, value in of_models.items() if value is not None]:
            raise MarginbenchError(f"--run: {given[0]} is for a --model; what run-all has trained has its own")
        _evaluate_trained(
            run,
            RunOptions(
                suite=suite or "",
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
    from marginbench.benchmarks.tables.render import show

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
    show(outcome.records)
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
    installed: pip install 'marginbench[onnx]'.
    """
    _load_plugins(plugin)
    from marginbench.benchmarks.training.export import export

    done = export(what, output, out, network)
    print("wrote " + "  ".join(map(str, done.files)))
    if done.without_onnx is not None:
        print(f"no .onnx: it {done.without_onnx}")
    elif done.agreement is None:
        print("not compared with ONNX Runtime, which is not installed: pip install 'marginbench[onnx]'")
    else:
        print(f"logits agree with those of ONNX Runtime to {done.agreement:.0e} of the largest one")


@app.command("leaderboard")
def leaderboard_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}; csv and json hold all columns.")] = "md",
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="Any column of the csv.")] = DEFAULT_SORT,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")] = None,
    strict: Strict = False,
) -> None:
    """Make tables from records."""
    from marginbench.benchmarks.machine.files import write_atomically
    from marginbench.benchmarks.records.reader import read_records
    from marginbench.benchmarks.tables.render import render, show

    records = read_records(folders, strict=strict)
    _refuse_nothing(records, folders)
    if output is not None:
        write_atomically(output, render(records, form, sort).encode())
    elif form == "md":
        show(records, sort)
    else:
        sys.stdout.write(render(records, form, sort))


@app.command("compare")
def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A row of the leaderboard: 'mma' or 'arcface(m=0.4)'.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The row to compare it with.")],
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Output folders. Default: results/local.")
    ] = None,
    form: Annotated[Literal["md", "csv"], typer.Option("--format", help="csv holds every number.")] = "md",
    strict: Strict = False,
) -> None:
    """Say in which columns two rows differ.

    Paired, network by network and test point by test point: marginbench compare mma ce results/reference
    """
    from marginbench.benchmarks.tables.compare import compare_rows
    from marginbench.benchmarks.tables.render_comparison import render_comparison

    table = compare_rows(a, b, *(folders or [RESULTS]), strict=strict)
    sys.stdout.write(render_comparison(table) if form == "md" else table.to_csv(index=False))


@app.command("claims")
def claims_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    form: Annotated[Literal["md", "csv"], typer.Option("--format", help="csv holds every number.")] = "md",
    strict: Strict = False,
) -> None:
    """Compare what papers claim with what was measured.

    For each method: what is said to grow, the difference to cross-entropy, and whether it shows.
    """
    from marginbench.benchmarks.records.reader import read_records
    from marginbench.benchmarks.tables.claims import claims, render_claims

    records = read_records(folders, strict=strict)
    _refuse_nothing(records, folders)
    sys.stdout.write(render_claims(records) if form == "md" else claims(records).to_csv(index=False))


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
    _say_what_loads("verify")
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
    from marginbench.benchmarks.machine.files import write_atomically
    from marginbench.benchmarks.records.constraints import constraints, environments_in

    if where is None:
        _say_what_loads("freeze")
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
) -> None:
    """Check the evaluation on this machine, in about a minute.

    Networks whose margins or faults are known go through every attack, certificate and doubt, a model whose numbers are
    known through all of it, from the file of images to the cells of the table. Convolutions are compared in both memory
    layouts. Exit code 1 if a check fails.
    """
    _say_what_loads("doctor")
    from marginbench.benchmarks.evaluation.doctor import table
    from marginbench.benchmarks.machine.device import resolve_device
    from marginbench.benchmarks.models.examination import examine

    results = list(examine(resolve_device(device)))
    print(table(results, every))
    failed = sum(result.verdict != "pass" for result in results)
    print(f"\n{failed} of {len(results)} checks failed" if failed else f"\nall {len(results)} checks passed")
    raise typer.Exit(1 if failed else 0)


@app.command("methods")
def methods_command(
    key: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Show one method in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    plugin: Plugins = None,
) -> None:
    """List the methods, or explain one.

    For one: paper, formula, hyper-parameters, neutral setting, deviations.
    """
    _load_plugins(plugin)
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
    _load_plugins(plugin)
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
    _load_plugins(plugin)
    from marginbench.benchmarks.contract.check import check, methods_of
    from marginbench.methods import spec_of

    failed = 0
    for method in methods_of(target):
        print(spec_of(method))
        for result in check(method):
            print(f"  {result.line()}", flush=True)
            failed += result.status == "failed"
    print(f"{failed} checks failed" if failed else "all checks passed")
    raise typer.Exit(1 if failed else 0)


def _report(outcome: "RunOutcome", chosen: RunOptions) -> None:
    """What a call of `run_all` did; exit code 1 if runs failed."""
    again = f", {outcome.resumed} had a record already (--fresh repeats them)" if outcome.resumed else ""
    done = f"{outcome.repeated} run{'s' * (outcome.repeated != 1)} done{again}."
    if chosen.only == "train":
        print(f"{done}\nNetworks: {outcome.networks}/<id>.safetensors and .json")
    else:
        from marginbench.benchmarks.tables.render import show

        if outcome.records:
            show(outcome.records)
        print(done)
        if outcome.files:
            print("Tables:  " + "  ".join(map(str, outcome.files)))
            print(f"Records: {outcome.runs}/<id>.json and .npz")
    if outcome.untrained:
        print(f"{outcome.untrained} runs have no network yet in {outcome.networks}: --only train makes them")
    if outcome.elsewhere:
        print(f"{outcome.elsewhere} runs are left to other processes: marginbench status {chosen.out}")
    if outcome.failed:
        print(f"{outcome.failed} of the runs failed (--retry repeats them).", file=sys.stderr)
        raise typer.Exit(1)


def _evaluate_trained(run: str, options: RunOptions) -> None:
    from marginbench.benchmarks.runs.run_all import evaluate_trained

    _report(evaluate_trained(run, options), options)


def _say_what_loads(what: str) -> None:
    """Break the silence of the seconds in which libraries load, where they have to."""
    if "torch" not in sys.modules:
        logging.getLogger(__name__).info("%s; loading torch", what)


def _numbers(parameter: str, text: str | None) -> list[float] | None:
    """Read `0.5,0.4`."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        problem = "write one number per channel, as in 0.49,0.48,0.45"
        raise ParameterError(parameter, text, problem) from None


def _refuse_nothing(records: Sequence[Any], folders: Sequence[Path]) -> None:
    if not records:
        raise MarginbenchError(f"{', '.join(map(str, folders))}: no records; make some with `marginbench run-all`")


def _load_plugins(paths: list[Path] | None) -> None:
    from marginbench.benchmarks.plugins import load_plugins

    load_plugins(paths or ())
