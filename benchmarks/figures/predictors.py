"""Which margin predicts what: a measure in each line, a target in each column."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.heat_map import heat_map
from marginbench.benchmarks.figures.rows import records_of
from marginbench.benchmarks.tables.measures import ALL, MEASURES, TARGETS
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import pandas as pd

SCORES = {"across": "across methods, mean over seeds", "within": "within a method, over seeds"}
WORDS = (
    "Bars: 95 % intervals, from −1 to 1 with a tick at 0. Bold: not 0, for all measures at once."
    " Pale: both are made of the same bounds."
)
OWN = "bounds"  # what a measure shares with a target that is made of the same numbers


@figure("suites")
def predictors(source: Any, *, suite: str | None = None, score: Literal["across", "within"] = "across") -> Any:
    """Kendall's tau between margins and accuracies over the networks of a suite, with 95 % intervals.

    Bar: the interval, on a scale from -1 to 1 with a tick at 0. Bold: an interval that holds for all measures of the
    target at once leaves out 0. Pale: measure and target are made of the same bounds, so that their agreement says
    nothing.

    Args:
        source: see `rows_of`; or the frame that `tables.margins.margins` gives, which takes its time.
        suite: name, or the beginning of the fingerprint. Default: the only one.
        score: across methods (mean over seeds) or within methods (over their seeds).

    Raises:
        ParameterError: there are several suites, or no such suite or score.
        MarginbenchError: no suite has three methods.
    """
    import pandas as pd

    if score not in SCORES:
        raise ParameterError("score", score, f"should be {' or '.join(SCORES)}")
    frame = source if isinstance(source, pd.DataFrame) else _frame(source)
    if frame.empty:
        raise MarginbenchError("no suite in these folders has measures of three methods or more")
    own = _of_suite(frame, suite)
    subtitle = f"Kendall's tau {SCORES[score]}. {WORDS}"
    return heat_map(list(_cells(own, score)), f"{own['suite'].iloc[0]}: which margin predicts what", subtitle)


def _frame(source: Any) -> "pd.DataFrame":
    from marginbench.benchmarks.tables.margins import margins

    return margins(records_of(source), information=False)


def _of_suite(frame: "pd.DataFrame", suite: str | None) -> "pd.DataFrame":
    chosen = (frame["suite"] == suite) | frame["suite_fingerprint"].str.startswith(suite or "")
    own = frame[chosen]
    names = sorted(set(frame["suite"]))
    if own.empty:
        raise ParameterError("suite", suite, f"no such suite: {suggest(suite or '', names)}")
    if own["suite_fingerprint"].nunique() > 1:
        raise ParameterError("suite", suite, f"there are several: name one of {', '.join(names)}")
    return own


def _cells(own: "pd.DataFrame", score: str) -> Iterator[dict[str, Any]]:
    """Line by line, in the order of the measures."""
    lines = {(line["measure"], line["over"], line["target"]): line for line in own.to_dict("records")}
    for measure in MEASURES:
        for target in TARGETS:
            line = lines.get((measure.name, measure.over, target.name))
            if measure.on_page and measure.over != ALL and line is not None:
                yield {
                    "measure": measure.title,
                    "target": target.title,
                    "tau": line[score],
                    "low": line[f"{score}_low"],
                    "high": line[f"{score}_high"],
                    "sure": bool(line[f"{score}_shown"]),
                    "pale": line["shares"] == OWN,
                }
