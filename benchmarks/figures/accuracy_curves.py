"""Robust and certified accuracy against epsilon, with what nobody knows between them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marginbench.benchmarks.figures.bands import Axes, Grid, bands, grid_to
from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import titled
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.methods import Norm


@figure()
def accuracy_curves(
    source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None, norm: Norm = "linf"
) -> Any:
    """Robust and certified accuracy against epsilon; the gap between them, which nobody knows, is shaded.

    At each radius the mean over seeds of the share of images that are correct and whose nearest adversarial example is
    farther away, and of the share that is certified up to it. At the suite's epsilon these are the columns of the
    tables. Curves have at most 60 points. The axis ends where even the most robust row has 5 % left, or at 5 epsilon.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by robust accuracy.
        norm: l2 or linf.
    """
    rows = rows_of(source, suite)
    epsilon = rows.epsilon[norm]
    grid = grid_to(_limit(rows, norm, epsilon), epsilon)
    curves = {row: ends(rows, row, norm, grid) for row in rows.runs}
    axes = Axes(f"ε in {NORM_TEXT[norm]}, pixels of [0, 1]", "accuracy", "robust", "certified")
    chosen = rows.picked(picked, f"robust_accuracy_{norm}")
    title = f"{rows.suite}: robust and certified accuracy"
    return titled(bands(curves, grid, axes, chosen, epsilon), title)


def ends(rows: Rows, row: str, norm: Norm, grid: Grid) -> dict[str, np.ndarray | None]:
    """Robust (`upper`) and certified accuracy (`lower`) [count] of a row; None where nothing was able to certify."""
    robust, certified = [], []
    for record in rows.runs[row]:
        arrays = rows.arrays(record)
        correct = arrays["prediction"] == arrays["label"]
        upper, lower = arrays[f"upper_{norm}"], arrays[f"lower_{norm}"]
        robust.append(_share(correct & (upper > _as(upper, grid)[:, None])))
        if any(name.startswith(f"lower_{norm}_") for name in arrays):
            certified.append(_share(correct & (lower >= _as(lower, grid)[:, None])))
    everywhere = len(certified) == len(robust)
    return {"upper": np.mean(robust, axis=0), "lower": np.mean(certified, axis=0) if everywhere else None}


def _share(condition: np.ndarray) -> np.ndarray:
    return np.asarray(condition.mean(1))


def _as(values: np.ndarray, grid: Grid) -> np.ndarray:
    """The radii in the type of the distances, as `metrics.per_point` compares them."""
    return grid.values.astype(values.dtype)


def _limit(rows: Rows, norm: Norm, epsilon: float) -> float:
    """Where 5 % of the most robust row are left."""
    lasting = []
    for runs in rows.runs.values():
        distances = np.concatenate([rows.arrays(record)[f"upper_{norm}"] for record in runs])
        finite = distances[np.isfinite(distances)]
        lasting.append(float(np.quantile(finite, 0.95)) if finite.size else 0.0)
    return float(np.clip(max(lasting), 1.5 * epsilon, 5 * epsilon))
