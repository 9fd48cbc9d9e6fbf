"""Scores by which benchmarks judge a classifier of two classes beside accuracy, through scikit-learn."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from marginbench.benchmarks.records.column import Column

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


def scores(names: Iterable[str], arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scores of these names from `label` [N] and `prediction` [N] int64, classes 0 and 1.

    A prediction of no class, where logits are NaN, counts as the wrong one. F1 is 0 where class 1 is never predicted
    right, Matthews 0 where one class alone is predicted.
    """
    label, prediction = arrays["label"] == 1, arrays["prediction"]
    said = np.where(prediction < 0, ~label, prediction == 1)
    return {name: float(_functions()[name](label, said)) for name in names}


def _functions() -> Mapping[str, Callable[..., Any]]:
    from sklearn import metrics  # seconds

    def matthews(label: np.ndarray, said: np.ndarray) -> float:
        constant = len(np.unique(np.concatenate([label, said]))) < 2  # of which scikit-learn warns
        return 0.0 if constant else float(metrics.matthews_corrcoef(label, said))

    return {"f1": lambda label, said: metrics.f1_score(label, said, zero_division=0.0), "matthews": matthews}
