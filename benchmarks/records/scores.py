"""Scores by which benchmarks judge a classifier of two classes beside accuracy: functions of its confusion counts."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from marginbench.benchmarks.records.column import Column

if TYPE_CHECKING:
    import numpy as np

SCORES = {
    "f1": Column(
        "f1", "F1 %", 100, 1, meaning="Harmonic mean of precision and recall of class 1 on the test split, as in GLUE."
    ),
    "matthews": Column(
        "matthews",
        "Matthews",
        meaning="Matthews correlation of classes and predictions: 1 at best, 0 for chance, as in GLUE.",
    ),
}


def scores(names: Iterable[str], arrays: "Mapping[str, np.ndarray]") -> dict[str, float]:
    """The scores of these names from `label` [N] and `prediction` [N] int64, classes 0 and 1.

    A prediction of no class, where logits are NaN, counts as the wrong one. F1 is 0 where class 1 is never predicted
    right, Matthews 0 where one class alone is predicted.
    """
    import numpy as np

    counts = np.bincount(_cells(arrays), minlength=4).tolist()
    return {name: _FORMULAS[name](*counts) for name in names}


def pseudo_values(name: str, arrays: "Mapping[str, np.ndarray]") -> "np.ndarray":
    """What each point contributes to a score, [N] float64, by the jackknife (Tukey, Ann. Math. Stat. 29, 1958, p. 614).

        N score - (N - 1) score without the point

    Of accuracy these are 1 where the prediction is right and 0 elsewhere. The variance of their mean is that of the
    score over points, a little too large rather than too small (Efron and Stein, Annals of Statistics 9, 1981); it is
    paired where pseudo-values of two classifiers are subtracted point by point.
    """
    import numpy as np

    cells, formula = _cells(arrays), _FORMULAS[name]
    counts = np.bincount(cells, minlength=4)
    less = np.maximum(counts - np.eye(4, dtype=int), 0)  # [4, 4]; no point asks for that of an empty cell
    without = np.array([formula(*of) for of in less.tolist()])
    return np.asarray(len(cells) * formula(*counts.tolist()) - (len(cells) - 1) * without[cells])


def _cells(arrays: "Mapping[str, np.ndarray]") -> "np.ndarray":
    """[N] int64: 0 true positive, 1 false positive, 2 false negative, 3 true negative, of class 1."""
    import numpy as np

    label, prediction = arrays["label"] == 1, arrays["prediction"]
    said = np.where(prediction < 0, ~label, prediction == 1)
    return np.where(label, np.where(said, 0, 2), np.where(said, 1, 3))


def _f1(tp: int, fp: int, fn: int, _tn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def _matthews(tp: int, fp: int, fn: int, tn: int) -> float:
    size = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(size) if size else 0.0


_FORMULAS: dict[str, Callable[..., float]] = {"f1": _f1, "matthews": _matthews}
