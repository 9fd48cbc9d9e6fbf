"""What a row pays for what it has: clean accuracy, or cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import titled
from marginbench.benchmarks.figures.rows import Interval, Rows, rows_of
from marginbench.benchmarks.figures.scatter import Quantity, pareto, scatter
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError

CLEAN = "clean_accuracy"
COSTS = {"seconds": columns.COST, "passes": columns.PASSES}


@figure()
def accuracy_tradeoff(
    source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None, column: str | None = None
) -> Any:
    """Clean accuracy against robust or certified accuracy, with the Pareto front.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by the column.
        column: against which clean accuracy is drawn. Default: robust accuracy in L2.

    Raises:
        ParameterError: there is no such column, no row has it, or it is clean accuracy itself.
        MarginbenchError: no row has both, or no column is named for sentences.
    """
    rows = rows_of(source, suite)
    if (against := column or rows.usual) == CLEAN:
        others = ", ".join(name for name in rows.known if name != CLEAN)
        if column is None:
            raise MarginbenchError(f"suite {rows.suite}: sentences have no robust accuracy; name a column: {others}")
        raise ParameterError("column", column, f"is on the other axis; name another column: {others}")
    clean = Quantity.of(rows.column(CLEAN), rows.heading(CLEAN))
    return _figure(rows, clean, {row: rows.interval(row, CLEAN) for row in rows.runs}, against, picked)


@figure()
def cost(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    column: str | None = None,
    unit: Literal["seconds", "passes"] = "seconds",
) -> Any:
    """Cost of a training against a column, such as robust accuracy, with the Pareto front.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by the column.
        column: what the cost is spent for. Default: robust accuracy in L2, or clean accuracy of sentences.
        unit: of the training, relative to the median of the baseline: seconds on the same machine; or passes forward
            and backward through the network, on any machine. Methods that compute bounds layer by layer need more than
            their passes say.

    Raises:
        ParameterError: there is no such column or unit, or no row has it.
        MarginbenchError: no row has both: the baseline is missing, or was trained on another machine.
    """
    if unit not in COSTS:
        raise ParameterError("unit", unit, f"should be {' or '.join(COSTS)}")
    rows = rows_of(source, suite)
    against = COSTS[unit]
    spent = {row: rows.interval(row, against.name) for row in rows.runs}
    x = Quantity(f"{unit} of the training, as a multiple of those of {BASELINE}", ascending=True, logarithmic=True)
    return _figure(rows, x, spent, column or rows.usual, picked)


def _figure(rows: Rows, x: Quantity, of_x: Mapping[str, Interval], column: str, picked: Sequence[str] | None) -> Any:
    y = Quantity.of(rows.measured(column), rows.heading(column))
    points = {row: (of_x[row], rows.interval(row, column)) for row in rows.runs}
    known = {row: at for row, at in points.items() if all(math.isfinite(mean) for mean, *_ in at)}
    if not known:
        raise MarginbenchError(f"suite {rows.suite}: no row has both {x.title} and {column}")
    front = pareto({row: (a[0], b[0]) for row, (a, b) in known.items()}, x, y)
    chosen = [row for row in rows.picked(picked, column) if row in known or picked is not None]
    subtitle = "Ringed: no row is better in both."
    return titled(scatter(known, x, y, chosen, front), f"{rows.suite}: {y.title}", subtitle, height=212)
