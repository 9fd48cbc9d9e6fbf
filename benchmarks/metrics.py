"""The numbers of one run, derived from its per-point arrays."""

from collections.abc import Mapping

import numpy as np

from marginbench.benchmarks.rejection import thresholded
from marginbench.benchmarks.smoothing import smoothed
from marginbench.methods import NORMS, Norm


def summarise(arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
    """Accuracies and mean margins of one run.

    robust accuracy at eps: share of points that are correct and whose upper bound exceeds eps;
    certified accuracy at eps: share that are correct and whose lower bound is at least eps. Means are over all
    points, a misclassified one counts as margin 0. Where no certificate applies, its metrics are left out. The mean
    upper bound is infinite if no attack moved one of the points, and `unattacked` is the share of correct points for
    which that is so.
    """
    correct = arrays["prediction"] == arrays["label"]
    out = {
        "points": float(correct.size),
        "clean_accuracy": _share(correct),
        "output_margin": float(arrays["output_margin"].mean()),
    }
    if "feature_margin" in arrays:
        out["feature_margin"] = float(arrays["feature_margin"].mean())
    for norm in NORMS:
        upper, lower = arrays[f"upper_{norm}"], arrays[f"lower_{norm}"]
        out[f"robust_accuracy_{norm}"] = _share(correct & (upper > epsilon[norm]))
        if any(name.startswith(f"lower_{norm}_") for name in arrays):  # else nothing was able to certify
            out[f"certified_accuracy_{norm}"] = _share(correct & (lower >= epsilon[norm]))
            out[f"margin_lower_{norm}"] = float(lower.mean())
        out[f"margin_upper_{norm}"] = float(upper.mean())
        out[f"unattacked_{norm}"] = _share(np.isinf(upper[correct]))
        if f"clever_{norm}" in arrays:
            out[f"clever_{norm}"] = float(np.nanmean(arrays[f"clever_{norm}"]))
    out |= thresholded(arrays) if "confidence" in arrays else {}
    return out | (smoothed(arrays, epsilon["l2"]) if "smoothed_radius" in arrays else {})


def _share(condition: np.ndarray) -> float:
    return float(condition.mean()) if condition.size else 0.0
