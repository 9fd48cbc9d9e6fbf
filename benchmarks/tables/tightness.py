"""How near each estimator is to the margin: beside the exact one where it is known, else beside the best attack."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marginbench.benchmarks.records.metrics import enclosed
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.source import Source
from marginbench.benchmarks.tables.margins import Networks, networks_of
from marginbench.benchmarks.tables.measures import Network, exact_margins
from marginbench.methods import NORMS

if TYPE_CHECKING:
    import pandas as pd

EXACT, ATTACKED = "exact", "attacked"
BESIDE = {EXACT: "exact margin", ATTACKED: "nearest adversarial example"}
KINDS = ATTACK, CERTIFICATE, ESTIMATE = "attack", "certificate", "estimate"
ESTIMATES = {"clever": "clever_{norm}", "linearised": "linearised_{norm}"}  # no bounds: names to arrays
COLUMNS = (
    *("suite", "title", "suite_fingerprint", "norm", "beside", "estimator", "kind", "networks", "points", "answered"),
    *("factor", "median", "low", "high", "worst", "wrong_side"),
)
TOGETHER = "(all)"  # the largest of several certificates
Ratios = dict[tuple[str, str, str, str], list[np.ndarray]]  # by norm, what stands beside, estimator and kind


def tightness(source: "Source | Networks" = RESULTS) -> "pd.DataFrame":
    """Ratios of what estimators say to the margin, over the correct points of all networks that count.

    Args:
        source: as in `margins`.

    Returns:
        one row per suite, norm, estimator and what it is measured by (`beside`: `exact` over the points whose bounds
        meet, `attacked` for the nearest adversarial example found, over all correct points): the nearest first, by
        `factor` = exp median |log ratio|. `median`, `low` and `high` (the quantiles 0.05 and 0.95) and `worst`, that
        with the largest |log|, of the ratios; `points` with a ratio; `answered`, the share of them that is neither 0
        nor infinite; `wrong_side`, the share of estimates above the exact margin: what is no bound may be. The
        certificate `(all)` is the largest of several. Left out are an estimator that defines the exact margin, from
        both sides, beside it; and a certificate that was asked at the suite's radii alone.

    Raises:
        MarginbenchError: no such folder, or the arrays of a record are cut, changed or missing.
        ParameterError: a source that `reading_of` refuses.
    """
    import pandas as pd

    lines = []
    for networks in networks_of(source).suites:
        first = networks[0].record
        facts = {"suite": first.suite.name, "title": first.suite.title, "suite_fingerprint": first.identity.suite}
        lines += [{**facts, **line} for line in _of_suite(networks)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _of_suite(networks: Sequence[Network]) -> list[dict[str, Any]]:
    found: Ratios = defaultdict(list)
    for network in networks:
        right = network.right
        for norm in enclosed(network.arrays):
            upper = network.arrays[f"upper_{norm}"].astype(float)
            exact = exact_margins(network, norm)
            references = {ATTACKED: upper} if exact is None else {ATTACKED: upper, EXACT: exact}
            for name, kind, values in _estimators(network, norm):
                for beside, truth in references.items():
                    if beside == EXACT and (name == TOGETHER or _two_sided(network, name, norm)):
                        continue
                    chosen = right & np.isfinite(truth) & (truth > 0) & ~np.isnan(values)
                    if chosen.any():
                        found[norm, beside, name, kind].append(values[chosen] / truth[chosen])
    certificates: dict[str, set[str]] = {
        norm: {name for of, _, name, kind in found if of == norm and kind == CERTIFICATE} for norm in NORMS
    }
    lines = [
        _line(*key, ratios) for key, ratios in found.items() if key[2] != TOGETHER or len(certificates[key[0]]) > 2
    ]
    return sorted(lines, key=lambda line: (line["norm"], line["beside"] != EXACT, line["kind"], line["factor"]))


def _estimators(network: Network, norm: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, kind and values [N] float64."""
    for kind, begin in ((ATTACK, f"upper_{norm}_"), (CERTIFICATE, f"lower_{norm}_")):
        for name, values in network.arrays.items():
            estimator = name.removeprefix(begin)
            if estimator in network.record.at_epsilon or (kind == ATTACK and _two_sided(network, estimator, norm)):
                continue
            if name.startswith(begin):
                yield estimator, kind, values.astype(float)
    asked = {name for name in network.arrays if name.startswith(f"lower_{norm}_")}
    if asked and not network.record.at_epsilon:
        yield TOGETHER, CERTIFICATE, network.arrays[f"lower_{norm}"].astype(float)
    for estimator, name in ESTIMATES.items():
        if (array := network.arrays.get(name.format(norm=norm))) is not None:
            yield estimator, ESTIMATE, array.astype(float)


def _two_sided(network: Network, estimator: str, norm: str) -> bool:
    """Does it bound the margin from both sides, as mixed-integer programs do?"""
    return all(f"{side}_{norm}_{estimator}" in network.arrays for side in ("upper", "lower"))


def _line(norm: str, beside: str, estimator: str, kind: str, ratios: list[np.ndarray]) -> dict[str, Any]:
    of_all = np.concatenate(ratios)
    with np.errstate(divide="ignore"):
        off = np.abs(np.log(of_all))
    low, median, high = (float(np.quantile(of_all, share, method="lower")) for share in (0.05, 0.5, 0.95))
    return {
        "norm": norm,
        "beside": beside,
        "estimator": estimator,
        "kind": kind,
        "networks": len(ratios),
        "points": len(of_all),
        "answered": float(np.isfinite(off).mean()),
        "factor": math.exp(float(np.quantile(off, 0.5, method="lower"))),
        "median": median,
        "low": low,
        "high": high,
        "worst": float(of_all[off.argmax()]),
        "wrong_side": float((of_all > 1).mean()) if kind == ESTIMATE and beside == EXACT else math.nan,
    }
