"""Commands that make tables from records."""

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from marginbench.benchmarks.cli.app import Plugins, Strict, app, load_plugins, refuse_nothing, say_what_loads
from marginbench.benchmarks.figures.theme import COLUMN_MM
from marginbench.benchmarks.machine.files import ensure_file_writable
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.runs.options import SETS
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT, WITHOUT_RADII
from marginbench.benchmarks.tables.render import FORMATS
from marginbench.methods.errors import MarginbenchError, ParameterError


@app.command("leaderboard")
def leaderboard_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Orders the rows: any column of numbers of the csv, or method. Default:"
            f" {DEFAULT_SORT}, of sentences {WITHOUT_RADII}.",
        ),
    ] = None,
    families: Annotated[str, typer.Option(metavar="A,B", help="Families of methods. Default: all.")] = "",
    methods: Annotated[
        str, typer.Option(metavar="A,B", help="Rows, as in 'ce,arcface(m=0.4)', or methods with all their rows.")
    ] = "",
    columns: Annotated[
        str, typer.Option(metavar="A,B", help="By their names in the csv, beside the one of --by.")
    ] = "",
    top: Annotated[
        int | None, typer.Option(metavar="N", help=f"So many rows, the best by COLUMN; {BASELINE} stays.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}; csv and json hold all columns. Default: FILE's, or md."),
    ] = None,
    all_notes: Annotated[bool, typer.Option("--notes", help="All notes, in a terminal too.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")] = None,
    strict: Strict = False,
) -> None:
    """Rank methods, and say which of them cannot be told apart.

    A terminal shows the columns that fit its width, the first rows, the last ones and the baseline. Elsewhere all is
    printed, as Markdown. Several folders make one table for each suite.
    """
    from marginbench.benchmarks.machine.files import write_atomically
    from marginbench.benchmarks.records.reader import read_folders
    from marginbench.benchmarks.tables.board import where_rows_stand
    from marginbench.benchmarks.tables.render import render
    from marginbench.benchmarks.tables.terminal import View, show
    from marginbench.methods.spec import split_specs

    form = form or _form(output, FORMATS)
    if output is not None:
        ensure_file_writable(output)
    reading = read_folders(folders, strict=strict)
    reading.warn()
    records = list(reading.records.values())
    refuse_nothing(records, folders)
    choice = Choice(by, split_specs(families), split_specs(methods), split_specs(columns), top)
    if all_notes and form in ("csv", "json"):
        raise ParameterError("all_notes", True, f"there are none in {form}: md, tex and html have them")
    known = where_rows_stand(reading, None if form in ("csv", "json") else [by or DEFAULT_SORT, *choice.columns])
    if output is not None:
        write_atomically(output, render(records, form, choice, known).encode())
    elif form == "md":
        show(records, choice, known, View(all_notes=all_notes))
    else:
        sys.stdout.write(render(records, form, choice, known))


def _form(output: Path | None, known: Sequence[str]) -> str:
    """The format that the name of the file says; the first one without a file, or where its name says nothing."""
    end = output.suffix.removeprefix(".").lower() if output else ""
    if end and end not in known:
        ends = ", ".join(f".{form}" for form in known)
        raise ParameterError("output", str(output), f"should end in {ends}; or name a format with --format")
    return end or known[0]


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

    Difference, interval and p are those of the leaderboard. This adds on how many images, of each pair of networks with
    one seed, either is above the other: marginbench compare mma ce results/reference/digits
    """
    from marginbench.benchmarks.tables.compare import compare_rows
    from marginbench.benchmarks.tables.render_comparison import render_comparison
    from marginbench.benchmarks.tables.terminal import show_page

    table = compare_rows(a, b, folders or [RESULTS], strict=strict)
    if form == "md":
        show_page(render_comparison(table))
    else:
        sys.stdout.write(table.to_csv(index=False))


@app.command("claims")
def claims_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    form: Annotated[Literal["md", "csv"], typer.Option("--format", help="csv holds every number.")] = "md",
    strict: Strict = False,
) -> None:
    """Compare what papers claim with what was measured.

    For each method: what is said to grow, the difference to cross-entropy, and whether it shows. A terminal has no room
    for the papers: marginbench methods KEY names them.
    """
    from marginbench.benchmarks.records.reader import read_folders
    from marginbench.benchmarks.tables.claims import claims, render_claims
    from marginbench.benchmarks.tables.terminal import show_page

    reading = read_folders(folders, strict=strict)
    reading.warn()
    refuse_nothing(list(reading.records.values()), folders)
    if form == "md":
        show_page(render_claims(reading, papers=not sys.stdout.isatty()))
    else:
        sys.stdout.write(claims(reading).to_csv(index=False))


@app.command("margins")
def margins_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of run-all.")],
    suite: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Default: all.")] = None,
    targets: Annotated[list[str] | None, typer.Option("--target", metavar="METRIC", help="Default: all six.")] = None,
    over_all: Annotated[bool, typer.Option("--over-all", help="Means over all test images too.")] = False,
    form: Annotated[
        Literal["md", "csv", "json"] | None,
        typer.Option("--format", help="csv and json hold all columns. Default: FILE's, or md."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")] = None,
    strict: Strict = False,
) -> None:
    """Say which margin measure predicts what, and how tight the estimators are.

    Over all networks of a suite, within a method and across methods: accuracy, generalisation gap, robustness.
    """
    import shutil

    from marginbench.benchmarks.machine.files import write_atomically
    from marginbench.benchmarks.records.reader import read_folders
    from marginbench.benchmarks.tables.margins import of_suites
    from marginbench.benchmarks.tables.render_margins import render_margins
    from marginbench.benchmarks.tables.terminal import show_page

    chosen_form = form or _form(output, ("md", "csv", "json"))
    if output is not None:
        ensure_file_writable(output)
    reading = read_folders(folders, strict=strict)
    reading.warn()
    refuse_nothing(list(reading.records.values()), folders)
    screen = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if screen else None
    chosen = of_suites(reading, suite) if suite else reading
    text = render_margins(chosen, chosen_form, targets or (), over_all=over_all, width=width)
    if output is not None:
        write_atomically(output, text.encode())
    elif chosen_form == "md":
        show_page(text)
    else:
        sys.stdout.write(text)


@app.command("plot")
def plot_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the figure; see --list.")] = None,
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Output folders. Default: results/local.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="FILE.svg, .pdf, .png, .html or .json.")
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAME", help="Where the folders hold several.")] = None,
    picked: Annotated[str | None, typer.Option(metavar="ROWS", help="To highlight: 'ce,mma,arcface(m=0.3)'.")] = None,
    methods: Annotated[str | None, typer.Option(metavar="ROWS", help="To show, of figures that list rows.")] = None,
    column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the csv.")] = None,
    norm: Annotated[str | None, typer.Option(metavar="NORM", help="l2 or linf.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the data sets, for figures of kept networks.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another option of the figure; see --list. Repeatable."),
    ] = None,
    width: Annotated[float, typer.Option(metavar="MM", help="A column of a paper has 84 mm.")] = COLUMN_MM,
    dark: Annotated[bool, typer.Option("--dark", help="For a dark page.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the figures and their options.")] = False,
    plugin: Plugins = None,
) -> None:
    """Draw one figure, for a paper or a page.

    marginbench plot accuracy_curves results/reference/digits --picked ce,mma -o curves.pdf
    """
    from marginbench.benchmarks.figures.draw import plot
    from marginbench.benchmarks.figures.save import save, writer
    from marginbench.benchmarks.figures.scan import FIGURES
    from marginbench.methods.spec import split_specs

    if plugin:
        load_plugins(plugin)
    if listed and (name is not None or output is not None):
        raise ParameterError("listed", True, "draws nothing: leave out the figure and its options")
    if listed:
        for figure in sorted(FIGURES.values(), key=lambda figure: figure.name):
            print(f"{figure.name:22} {figure.about}\n{'':22} {', '.join(figure.options)}")
        return
    if name is not None:
        FIGURES.find(name, "figure")  # an unknown name comes before a missing file
    if name is None or output is None:
        missing = "name a figure" if name is None else "name a file with -o"
        raise MarginbenchError(f"{missing}, as in `marginbench plot cost -o cost.svg`; --list lists the figures")
    writer(output)  # a wrong name comes before the drawing
    further = [_key_and_value(one) for one in option or ()]
    given = {
        "suite": suite,
        "picked": picked and split_specs(picked),
        "methods": methods and split_specs(methods),
        "column": column,
        "norm": norm,
        "data_dir": data_dir,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key, value in further:
        if key in options:
            raise ParameterError("option", f"{key}={value}", f"{key} is given twice")
        options[key] = value
    ensure_file_writable(output.expanduser())
    save(plot(name, folders or [RESULTS], width=width, dark=dark, **options), output)


def _key_and_value(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ParameterError("option", text, "should be KEY=VALUE")
    return key, int(value) if value.isdecimal() else value


@app.command("report")
def report_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Output folders of run-all. Default: results/local.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="Default: report.html in the first folder."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="ROW[,ROW...]",
            help="Rows whose features and adversarial examples are shown, where networks were kept; none: none of them."
            " Default: the baseline and the best row.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", envvar="MARGINBENCH_DATA", show_default=False, help=SETS),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    strict: Strict = False,
) -> None:
    """Write one HTML page of everything: leaderboard, figures, a page for each row, what was run and what is missing.

    It is one file, which opens without a network: marginbench report results/reference/digits -o report.html
    """
    folders = folders or [RESULTS]
    path = (output or folders[0] / "report.html").expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ParameterError("output", str(output), "should end in .html: browsers go by it")
    if output is not None or path.parent.is_dir():  # a folder of records that is not there is not made
        ensure_file_writable(path)
    say_what_loads("report")
    from marginbench.benchmarks.reports.make import report
    from marginbench.methods.spec import split_specs

    rows = None if features is None else [] if features == "none" else split_specs(features)
    page = report(folders, features=rows, data_dir=data_dir, strict=strict)
    page.save(path)
    print(f"wrote {path} ({page.megabytes:.1f} MB): open it in a browser")
    if open_it:
        webbrowser.open(path.absolute().as_uri())
