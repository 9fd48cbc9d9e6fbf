"""The report of some folders: gathered, laid out, written."""

import html
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.records.reader import RESULTS, read_folders
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest
from marginbench.methods.words import counted

log = logging.getLogger(__name__)

HERE = Path(__file__).parent / "templates"
STYLES = ("page.css", "board.css")
SCRIPTS = ("theme.js", "tips.js", "board.js", "charts.js", "routes.js")  # in this order


@dataclass(frozen=True)
class Report:
    """A whole page. It displays itself in a notebook."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write it to a file, which replaces one that is there; returns its path.

        Raises:
            UnwritableError: the file cannot be written.
        """
        path = Path(path).expanduser()
        write_atomically(path, self.html.encode())
        return path

    def _repr_html_(self) -> str:
        """In a frame of its own, so that neither its styles nor its scripts meet those of the notebook."""
        inner = html.escape(self.html, quote=True)
        return f'<iframe title="marginbench report" style="width:100%;height:48em;border:0" srcdoc="{inner}"></iframe>'

    def __repr__(self) -> str:
        return f"Report({self.megabytes:.1f} MB)"

    @property
    def megabytes(self) -> float:
        return len(self.html.encode()) / 1e6


def report(
    folders: str | Path | Iterable[str | Path] = RESULTS,
    *,
    features: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    strict: bool = False,
) -> Report:
    """A self-contained HTML page of the records below some folders, which opens without a network.

        report("results/local").save("report.html")

    Suites are kept apart, and so are rows that do not count, see `records.current`.

    Args:
        folders: output folders of `run_all`.
        features: rows whose features are mapped and whose adversarial examples are shown, from networks that were
            kept. Default: the baseline, and the best row by robust accuracy. An empty list saves the time.
        data_dir: folder of data sets, for these figures. Default: see `data.dataset.data_folder`.
        strict: raise where a record cannot be read, instead of saying so in the report, and check all arrays.

    Raises:
        MarginbenchError: no such folder, or no records in it; with `strict`, a record that cannot be read.
        ParameterError: there is no row of a name in `features`.
    """
    from marginbench.benchmarks.reports.suite_page import Choice, suite_pages

    started = time.perf_counter()
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    reading = read_folders(paths, strict=strict)
    if not reading.records:
        where = ", ".join(map(str, paths))
        raise MarginbenchError(f"{where}: no records; make some with `marginbench run-all`")
    known = {record.method for record in reading.records.values()}
    for name in features or ():
        if name not in known:
            raise ParameterError("features", name, f"no such row: {suggest(name, known)}")
    log.info("report: %s", counted(len(reading.records), "record"))
    suites, across = suite_pages(reading, Choice(paths, features, data_dir))
    title = ", ".join(suite.name for suite in suites)
    page = Report(_laid_out(suites=suites, across=across, problems=list(reading.problems.values()), title=title))
    log.info("report: %.1f MB in %.1f s", page.megabytes, time.perf_counter() - started)
    return page


def _laid_out(**values: Any) -> str:
    import jinja2
    from markupsafe import Markup

    from marginbench.benchmarks.figures.theme import DARK, LIGHT, config
    from marginbench.benchmarks.tables.claims import LEGEND

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["json"] = lambda value: Markup(as_json(value))
    environment.filters["short"] = "{:.6g}".format
    environment.filters["ratio"] = lambda value: "∞" if math.isinf(value) else f"{value:.3g}"
    environment.filters["marked"] = _marked
    environment.filters["counted"] = counted
    environment.filters["breakable"] = _breakable
    themes = {"light": (config(), LIGHT), "dark": (config(dark=True), DARK)}
    return environment.get_template("page.html").render(
        **values,
        themes={name: {"config": theme, "palette": palette} for name, (theme, palette) in themes.items()},
        norm_text=NORM_TEXT,
        claims_legend=LEGEND,
        version=metadata.version("marginbench"),
        vega=Markup(_vega()),
        styles=Markup("\n".join((HERE / name).read_text("utf-8") for name in STYLES)),
        scripts=Markup(in_script("\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS))),
    )


@cache
def _vega() -> str:
    """The library that draws in the browser. It takes a second to put together, and `run-all --report` many."""
    import vl_convert

    return in_script(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub wants a snippet


def _marked(text: str) -> Any:
    """A text in which some words are `**bold**`, and others, between backticks, code."""
    from markupsafe import Markup, escape

    bold = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text)))
    return Markup(re.sub(r"`(.+?)`", r'<code class="code">\1</code>', bold))


def _breakable(name: str) -> Any:
    """A name that may be broken between its words."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_(,])", r"\1<wbr>", str(escape(name))))


def as_json(value: Any) -> str:
    """JSON that may stand in an element `script`: no character opens or closes another one."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def in_script(text: str) -> str:
    """A script that does not end the element in which it stands. Regular expressions in it may hold any other `</`."""
    return re.sub("</(?=script)", r"<\\/", text, flags=re.IGNORECASE)
