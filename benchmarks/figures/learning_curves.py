"""How trainings went: accuracy, error or loss against the epoch."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import (
    IS_PICKED,
    NOT_PICKED,
    inline,
    kinds_of_line,
    layered,
    row_colour,
    titled,
)
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.records.record import Record
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError

QUANTITIES = {"error": "error", "loss": "cross-entropy, nats", "objective": "loss of the method, per epoch"}


@figure()
def learning_curves(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    quantity: Literal["error", "loss", "objective"] = "error",
) -> Any:
    """Error or cross-entropy (validation images solid, training images dashed), or the method's own loss, by epoch.

    Means over seeds; what was measured at an epoch by all seeds of a row is a point.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by validation accuracy.
        quantity: error, loss (cross-entropy of the logits), or objective (what the method minimises, training only).

    Raises:
        ParameterError: another quantity.
        MarginbenchError: the records hold no learning curves.
    """
    if quantity not in QUANTITIES:
        raise ParameterError("quantity", quantity, f"should be one of {', '.join(QUANTITIES)}")
    rows = rows_of(source, suite)
    values = [point for row in rows.runs for point in _points(rows, row, quantity)]
    if len({value["epoch"] for value in values}) < 2:
        raise MarginbenchError(
            f"suite {rows.suite}: the records hold no learning curves of two points or more; train again with"
            " `marginbench run-all --fresh --curve-every 1`"
        )
    chosen = rows.picked(picked, "validation_accuracy")
    return titled(_chart(values, quantity, chosen), f"{rows.suite}: learning curves")


def _points(rows: Rows, row: str, quantity: str) -> list[dict[str, Any]]:
    """Epoch, `train` and `validation`, where all seeds were measured."""
    of_seeds = [_of(record, quantity) for record in rows.runs[row]]
    common = set.intersection(*(set(own) for own in of_seeds))
    return [
        {
            "row": row,
            "epoch": epoch,
            **{key: _mean([own[epoch][key] for own in of_seeds]) for key in of_seeds[0][epoch]},
        }
        for epoch in sorted(common)
    ]


def _of(record: Record, quantity: str) -> dict[int, dict[str, float | None]]:
    if quantity == "objective":
        return {epoch: {"train": loss} for epoch, loss in enumerate(record.losses, 1)}
    if quantity == "loss":
        return {p.epoch: {"train": p.train_loss, "validation": p.validation_loss} for p in record.curve}
    return {p.epoch: {"train": 1 - p.train_accuracy, "validation": 1 - p.validation_accuracy} for p in record.curve}


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([np.nan if value is None else value for value in values]))


def _chart(values: Sequence[dict[str, Any]], quantity: str, picked: Sequence[str]) -> Any:
    import altair as alt

    form = "~%" if quantity == "error" else ".3~g"
    whole = (
        alt.Chart(inline(values))
        .transform_fold(["validation", "train"], as_=["images", "value"])
        .transform_filter("isValid(datum.value)")
    )
    x = alt.X(
        "epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False, zero=False)
    )
    y = alt.Y("value:Q", title=QUANTITIES[quantity], axis=alt.Axis(format=form), scale=alt.Scale(zero=True))
    kinds = [kind for kind in ("validation", "train") if kind in values[0]]
    dash = kinds_of_line("images", kinds, "top-right")
    mine = whole.transform_filter(IS_PICKED)
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("epoch:Q"),
        alt.Tooltip("images:N"),
        alt.Tooltip("value:Q", title=quantity, format=".1%" if form == "~%" else ".3~g"),
    ]
    layers = [
        whole.transform_filter(NOT_PICKED)
        .transform_filter(f"datum.images === '{kinds[0]}'")
        .mark_line(style="other", strokeWidth=0.6, opacity=0.7)
        .encode(x=x, y=y, detail=alt.Detail("row:N"), tooltip=alt.Tooltip("row:N")),
        mine.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=row_colour(), strokeDash=dash),
        mine.mark_point(filled=True, size=16, opacity=1).encode(x=x, y=y, color=row_colour(), tooltip=tooltip),
    ]
    return layered(layers, picked)
