"""How margins are distributed over the images: in the input space, where bounds are known, and in the feature space."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from marginbench.benchmarks.figures.bands import POINTS, Axes, Grid, bands
from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.layers import titled
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.methods import MarginbenchError, Norm

Arrays = Any  # of a record, by name
SEEN = (0.005, 0.995)  # quantiles of all rows that the axis of feature margins spans


@figure()
def margin_distribution(
    source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None, norm: Norm = "linf"
) -> Any:
    """Distribution of the margin in the input space, between those of its two bounds.

    Of the images that are classified correctly, the share whose margin is at most x: it lies between the share of the
    nearest adversarial examples within x and the share of the certified radii below x. Means over seeds, in curves of
    at most 60 points.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by robust accuracy.
        norm: l2 or linf.
    """
    rows = rows_of(source, suite)
    largest = [_finite(rows, row, lambda arrays: _correct(arrays, f"upper_{norm}")) for row in rows.runs]
    limit = max((float(np.quantile(values, 0.99)) for values in largest if values.size), default=rows.epsilon[norm])
    grid = Grid(0.0, limit / (POINTS - 1), POINTS)
    bounds = {end: partial(_bound, end=end, norm=norm) for end in ("upper", "lower")}
    curves = {row: {end: _cdf(rows, row, grid, bound) for end, bound in bounds.items()} for row in rows.runs}
    axes = Axes(
        f"margin in {NORM_TEXT[norm]}, pixels of [0, 1]",
        "share of correct images",
        "adversarial",
        "certified",
        "bottom-right",
    )
    chosen = rows.picked(picked, f"robust_accuracy_{norm}")
    return titled(bands(curves, grid, axes, chosen, rows.epsilon[norm]), f"{rows.suite}: margins of correct images")


@figure()
def feature_margins(source: Any, *, suite: str | None = None, picked: Sequence[str] | None = None) -> Any:
    """Distribution of the margin in the feature space, normalised as in the PMM paper.

    The share of all images whose feature margin is at most x, means over seeds; the margin is negative where an image
    is misclassified (Weinstein et al., eq. 8, over the largest norm of the features). Rows whose last layer is not
    linear have none.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: rows to highlight. Default: the baseline, and the best by feature margin.

    Raises:
        MarginbenchError: no record has feature margins.
    """
    rows = rows_of(source, suite)
    values = {row: _finite(rows, row, lambda arrays: arrays.get("feature_margin")) for row in rows.runs}
    values = {row: own for row, own in values.items() if own.size}
    if not values:
        raise MarginbenchError(f"suite {rows.suite}: no record has feature margins: no last layer is linear")
    low = min(float(np.quantile(own, SEEN[0])) for own in values.values())
    high = max(float(np.quantile(own, SEEN[1])) for own in values.values())
    grid = Grid(low, max(high - low, 1e-6) / (POINTS - 1), POINTS)
    curves: dict[str, dict[str, np.ndarray | None]] = {
        row: {"upper": _cdf(rows, row, grid, lambda arrays: arrays.get("feature_margin"))} for row in values
    }
    axes = Axes("feature margin / max |φ|", "share of images", "feature margin")
    chosen = [row for row in rows.picked(picked, "feature_margin") if row in curves or picked is not None]
    return titled(bands(curves, grid, axes, chosen, 0.0), f"{rows.suite}: margins in the feature space")


def _bound(arrays: Arrays, end: str, norm: Norm) -> np.ndarray | None:
    """One end of the margins of the correct images; None where nothing was able to certify."""
    if end == "lower" and not any(name.startswith(f"lower_{norm}_") for name in arrays):
        return None
    return _correct(arrays, f"{end}_{norm}")


def _correct(arrays: Arrays, name: str) -> np.ndarray:
    return np.asarray(arrays[name][arrays["prediction"] == arrays["label"]])


def _finite(rows: Rows, row: str, values: Callable[[Arrays], np.ndarray | None]) -> np.ndarray:
    """The finite values of all seeds."""
    of_seeds = [values(rows.arrays(record)) for record in rows.runs[row]]
    pooled = np.concatenate([own for own in of_seeds if own is not None] or [np.zeros(0)])
    return np.asarray(pooled[np.isfinite(pooled)])


def _cdf(rows: Rows, row: str, grid: Grid, values: Callable[[Arrays], np.ndarray | None]) -> np.ndarray | None:
    """The share [count] of values up to each place, mean over seeds; None unless all seeds have values."""
    of_seeds = [values(rows.arrays(record)) for record in rows.runs[row]]
    known = [own for own in of_seeds if own is not None and own.size]
    if len(known) < len(of_seeds):
        return None
    shares = [(own[None] <= grid.values.astype(own.dtype)[:, None]).mean(1) for own in known]
    return np.asarray(np.mean(shares, axis=0))
