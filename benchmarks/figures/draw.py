"""One figure by name: drawn, and dressed for a column of a paper or for a notebook."""

from typing import Any

from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.figures.scan import FIGURES, Figure
from marginbench.benchmarks.figures.theme import COLUMN_MM, PIXELS_PER_MM, config
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.methods import NORMS, MarginbenchError
from marginbench.methods.errors import ParameterError


def plot(name: str, source: Any = RESULTS, *, width: float = COLUMN_MM, dark: bool = False, **options: Any) -> Any:
    """A figure as an Altair chart, which displays itself in a notebook; `save` of `figures.save` writes it to a file.

        plot("accuracy_curves", "results/local", picked=["ce", "my_margin"], norm="linf")

    Args:
        name: of the figure; `marginbench plot --list` lists them.
        source: see `records.source.reading_of`; the arrays are needed.
        width: of the whole figure, in mm of a page (96 pixels to the inch).
        dark: for a dark page.
        options: of the figure: `suite` (a name, where there are several), `picked` (rows to highlight), `norm`, ...

    Raises:
        MarginbenchError: no such folder, or it does not hold what the figure shows.
        ParameterError: a source that `reading_of` refuses, an option that this figure does not have, or a wrong value.
    """
    figure = FIGURES.find(name, "figure")
    return dressed(drawn(figure, source, options), width, dark)


def drawn(figure: Figure, source: Any, options: dict[str, Any]) -> Any:
    """The chart without a theme and with no width: both are left to the page that shows it."""
    for key, value in options.items():
        if key not in figure.options:
            raise ParameterError(key, value, f"{figure.name} has no such option: it has {', '.join(figure.options)}")
    norm = options.get("norm", NORMS[0])
    if norm not in NORMS:
        raise ParameterError("norm", norm, f"should be {' or '.join(NORMS)}")
    if "norm" in figure.options and figure.of != "suites":
        source = rows_of(source, options.get("suite"))
        if norm not in source.epsilon:
            others = sorted(one.name for one in FIGURES.values() if one.of == "suite" and "norm" not in one.options)
            raise MarginbenchError(
                f"{figure.name}: {source.suite} is of sentences, where nothing is measured in pixels; what can be"
                f" drawn: {', '.join(others)}"
            )
    return figure.function(source, **options)


def dressed(chart: Any, width: float = COLUMN_MM, dark: bool = False) -> Any:
    """The chart in a theme, `width` mm wide with axes and legends.

    Raises:
        ParameterError: a width at which nothing can be read.
    """
    import altair as alt

    if not 40 <= width <= 1000:
        raise ParameterError("width", width, "should be 40 to 1000 mm")
    return chart.properties(
        width=round(width * PIXELS_PER_MM, 1),
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        padding=2,
        config=alt.Config.from_dict(config(dark)),
    )
