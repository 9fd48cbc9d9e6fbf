"""The numbers that every run has, derived from its per-point arrays. Probes bring their own."""

from collections.abc import Mapping

import numpy as np

from marginbench.methods import NORMS, Norm


def summarise(arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
    """Accuracies and mean margins of one run; probes have metrics of their own.

    robust accuracy at eps: share of points that are correct and whose upper bound exceeds eps;
    certified accuracy at eps: share that are correct and whose lower bound is at least eps. Means are over all
    points, a misclassified one counts as margin 0. Where no certificate applies, its metrics are left out, and where
    nothing is enclosed, as of sentences, so is all that has a norm. The mean
    upper bound is infinite if no attack moved one of the points, and `unattacked` is the share of correct points for
    which that is so.
    """
    correct = arrays["prediction"] == arrays["label"]
    with np.errstate(over="ignore"):  # of a true class that is masked by float32's lowest number
        out = {"points": float(correct.size), "output_margin": float(arrays["output_margin"].mean())}
    if "feature_margin" in arrays:
        out["feature_margin"] = float(arrays["feature_margin"].mean())
    for name, values in per_point(arrays, epsilon).items():
        out[name] = _share(values) if values.dtype == bool else float(values.mean())
    for norm in enclosed(arrays):
        out[f"unattacked_{norm}"] = _share(np.isinf(arrays[f"upper_{norm}"][correct]))
    return out


def per_point(arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, np.ndarray]:
    """Accuracies and margins of one run point by point: shares as bool [N], margins as float [N].

    Their means are metrics. Where nothing was able to certify, the column is left out.
    """
    correct = arrays["prediction"] == arrays["label"]
    out = {"clean_accuracy": correct}
    for norm in enclosed(arrays):
        upper, lower = arrays[f"upper_{norm}"], arrays[f"lower_{norm}"]
        out[f"robust_accuracy_{norm}"] = correct & (upper > epsilon[norm])
        out[f"margin_upper_{norm}"] = upper
        if any(name.startswith(f"lower_{norm}_") for name in arrays):
            out[f"certified_accuracy_{norm}"] = correct & (lower >= epsilon[norm])
            out[f"margin_lower_{norm}"] = lower
    return out


def enclosed(arrays: Mapping[str, np.ndarray]) -> list[Norm]:
    """The norms in which margins were enclosed: none for sentences."""
    return [norm for norm in NORMS if f"upper_{norm}" in arrays]


def _share(condition: np.ndarray) -> float:
    return float(condition.mean()) if condition.size else 0.0
