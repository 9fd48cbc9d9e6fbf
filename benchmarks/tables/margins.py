"""Which margin predicts what, over all networks of a suite."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import RESULTS, Reading, arrays_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.source import Source, reading_of
from marginbench.benchmarks.statistics.association import (
    across,
    chance_across,
    chance_linear,
    chance_within,
    held_out_errors,
    information,
    interval,
    kendall,
    r2,
    resampled,
    within,
)
from marginbench.benchmarks.statistics.paired import LEVEL
from marginbench.benchmarks.tables.counts import exact_metrics
from marginbench.benchmarks.tables.measures import ALL, MEASURES, TARGETS, Measure, Network, Target
from marginbench.benchmarks.tables.own_networks import once
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest

if TYPE_CHECKING:
    import pandas as pd

METHODS = 3  # of a suite, at least
DRAWS = 1000
INFORMATION_DRAWS = 50
NOTHING = (math.nan, math.nan, math.nan)
FACTS = ("suite", "title", "suite_fingerprint", "target", "measure", "over", "shares", "networks", "rows", "methods")
SCORES = ("tau", "across", "within", "granulated", "information", "r2")
AXES = ("across", "within")
Score = tuple[float, float, float]  # value, and its 95 % interval


@dataclass(frozen=True)
class Paired:
    """A measure and a target over the networks that have both."""

    measure: Measure
    target: Target
    shares: str  # see `Target.shares`
    networks: int
    rows: int
    methods: int  # rows of one method, with other settings or tuned, are no independent draws
    scores: dict[str, Score]  # of SCORES without `information`
    information: Callable[[], Score]  # computed if it is asked for
    chance: dict[str, Callable[[], float]]  # of AXES and r2: p of shuffled values, computed where it matters
    draws: dict[str, np.ndarray]  # of AXES and r2: [DRAWS] values of the bootstrap, the same samples for all measures


@dataclass(frozen=True)
class Networks:
    """Those of the records that count, each once, with their arrays."""

    suites: Sequence[Sequence[Network]]


def margins(
    source: "Source | Networks" = RESULTS,
    targets: Sequence[str] = (),
    *,
    over_all: bool = False,
    information: bool = True,
) -> "pd.DataFrame":
    """How well each margin measure orders and predicts each target, over the records that count.

    Args:
        source: see `reading_of`; the arrays are needed. Or networks, where they have been read.
        targets: names of metrics; all of `measures.TARGETS` by default.
        over_all: the means over all test images too, which count a misclassified one as 0 and so contain the accuracy.
        information: compute the conditional information, which takes most of the time; without, it is NaN.

    Returns:
        one row per suite, target and measure, with `over` (the images of the measure: `correct` test images, `all`, or
        `train`), `shares` (what both have in common by construction: `bounds`, `accuracy`, `images`), the numbers of
        networks and methods, and each of SCORES with its interval `_low`, `_high`, from a bootstrap over methods:
        Kendall's tau-b over all networks; its mean over seeds of the tau across rows, and over rows of the tau
        across seeds (the granulated coefficients, and their mean); the conditional information of PGDL; R2 of a linear
        predictor for methods left out. Of `across`, `within` and `r2` also `_shown`: an interval that holds for all
        measures of the target at once (Bonferroni) does not hold 0, R2 lies above it, and it passes a permutation test
        too; of `across` and `within` also `_best`: not told apart from the best measure, by such an interval of the
        difference. Measures that contain the accuracy or decide the target compete with none.

    Raises:
        ParameterError: an unknown target, or a source that `reading_of` refuses.
        MarginbenchError: no such folder, or the arrays of a record are cut, changed or missing.
    """
    import pandas as pd

    known = [target.name for target in TARGETS]
    for name in targets:
        if name not in known:
            raise ParameterError("targets", name, suggest(name, known))
    lines: list[dict[str, Any]] = []
    for networks in networks_of(source).suites:
        values = {
            measure: np.array([measure.of(network) for network in networks], dtype=float).reshape(len(networks), -1)
            for measure in MEASURES
            if over_all or measure.over != ALL
        }
        for target in TARGETS:
            if not targets or target.name in targets:
                lines += _lines(networks, _competing(_over(networks, target, values)), information)
    return pd.DataFrame(lines, columns=None if lines else [*FACTS, *SCORES])


def of_suites(reading: Reading, names: Sequence[str]) -> Reading:
    """The records of the suites alone.

    Raises:
        MarginbenchError: there is none of a suite of that name.
    """
    known = sorted({record.suite.name for record in reading.records.values()})
    for name in names:
        if name not in known:
            raise MarginbenchError(f"no record of suite {name!r}: {suggest(name, known)}")
    kept = {path: record for path, record in reading.records.items() if record.suite.name in names}
    return replace(reading, records=kept)


def networks_of(source: "Source | Networks") -> Networks:
    """The networks of a source; those that have been read are returned."""
    if isinstance(source, Networks):
        return source
    reading = reading_of(source, arrays=True)
    paths = {record.id: path for path, record in reading.records.items()}
    suites: dict[str, list[Record]] = defaultdict(list)
    for record in current(reading.records.values()):
        if record.status == "done":
            suites[record.identity.suite].append(record)
    return Networks(
        [[Network(one, dict(arrays_of(paths[one.id], one))) for one in once(own)] for own in suites.values()]
    )


def _over(networks: Sequence[Network], target: Target, values: Mapping[Measure, np.ndarray]) -> list[Paired]:
    """All measures of one suite, values [n, p], and one target."""
    y = np.array([exact_metrics(network.record).get(target.name, math.nan) for network in networks])
    methods = _methods(networks)
    weights = resampled(int(methods.max()) + 1, DRAWS)
    found = []
    for measure, x in values.items():
        kept = ~np.isnan(x).any(1) & np.isfinite(y)
        if len(set(methods[kept])) >= METHODS:
            chosen = [network for network, keep in zip(networks, kept, strict=True) if keep]
            found.append(_paired(measure, target, chosen, (x[kept], y[kept]), weights[:, np.unique(methods[kept])]))
    return found


def _paired(
    measure: Measure,
    target: Target,
    networks: Sequence[Network],
    values: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
) -> Paired:
    x, y = values
    methods, rows = _methods(networks), _codes(network.record.method for network in networks)
    of_row = methods[np.unique(rows, return_index=True)[1]]
    seeds = _codes(network.record.repetition for network in networks)
    count = weights.shape[1]
    w = np.vstack([np.ones(count), weights])  # the first draw is the truth
    draws = {name: np.full(len(w), np.nan) for name in SCORES if name != "information"}
    if x.shape[1] == 1:
        v = x[:, 0]
        draws["tau"] = kendall(v, y, w[:, methods])
        draws["across"] = across(v, y, rows, seeds, w[:, of_row])
        draws["within"] = within(v, y, rows, w[:, of_row])
        draws["granulated"] = (draws["across"] + draws["within"]) / 2
    if np.isfinite(x).all():
        draws["r2"] = r2(*held_out_errors(x, y, methods), w[:, methods])

    def informed() -> Score:
        if x.shape[1] > 1:
            return NOTHING
        families = _codes(network.record.about.family for network in networks)
        conditions = [np.zeros_like(rows), rows, seeds, families]
        return _score(information(x[:, 0], y, conditions, w[: 1 + INFORMATION_DRAWS, methods]), count)

    scores = {name: _score(values, count) for name, values in draws.items()}
    chance: dict[str, Callable[[], float]] = {
        "across": lambda: chance_across(x[:, 0], y, rows, seeds, of_row),
        "within": lambda: chance_within(x[:, 0], y, rows),
        "r2": lambda: chance_linear(x, y, methods),
    }
    kept = {name: draws[name][1:] for name in (*AXES, "r2")}
    sizes = len(networks), len(of_row), count
    return Paired(measure, target, target.shares(measure), *sizes, scores, informed, chance, kept)


def _score(values: np.ndarray, methods: int) -> Score:
    """From draws, of which the first is the truth."""
    return float(values[0]), *interval(values[1:], methods)


def _competing(found: Sequence[Paired]) -> list[tuple[Paired, dict[str, bool]]]:
    """With `_shown` of AXES and r2, and `_best` of AXES."""
    verdicts: list[dict[str, bool]] = [
        {f"{name}_shown": False for name in (*AXES, "r2")} | {f"{axis}_best": False for axis in AXES} for _ in found
    ]
    fair = [i for i, pair in enumerate(found) if pair.shares != "bounds" and pair.measure.over != ALL]
    for name in (*AXES, "r2"):
        in_play = [i for i in fair if not math.isnan(found[i].scores[name][1])]
        level = 1 - LEVEL / max(1, len(in_play))
        for i in in_play:
            low, high = interval(found[i].draws[name], found[i].methods, level)
            shown = low > 0 or (high < 0 and name in AXES)
            verdicts[i][f"{name}_shown"] = shown and found[i].chance[name]() < 1 - level
        if name in AXES and in_play:
            best = max(in_play, key=lambda i: found[i].target.sign * found[i].scores[name][0])
            for i in in_play:
                behind = found[i].target.sign * (found[best].draws[name] - found[i].draws[name])
                verdicts[i][f"{name}_best"] = i == best or not interval(behind, found[i].methods, level)[0] > 0
    return list(zip(found, verdicts, strict=True))


def _lines(
    networks: Sequence[Network], found: Iterable[tuple[Paired, dict[str, bool]]], informed: bool
) -> list[dict[str, Any]]:
    first = networks[0].record
    return [
        {
            "suite": first.suite.name,
            "title": first.suite.title,
            "suite_fingerprint": first.identity.suite,
            "target": pair.target.name,
            "measure": pair.measure.name,
            "over": pair.measure.over,
            "shares": pair.shares,
            "networks": pair.networks,
            "rows": pair.rows,
            "methods": pair.methods,
            **{
                name + end: value
                for name, values in _scores(pair, informed).items()
                for end, value in zip(("", "_low", "_high"), values, strict=True)
            },
            **verdict,
        }
        for pair, verdict in found
    ]


def _scores(pair: Paired, informed: bool) -> dict[str, Score]:
    """Of SCORES, in their order."""
    found = {**pair.scores, "information": pair.information() if informed else NOTHING}
    return {name: found[name] for name in SCORES}


def _methods(networks: Sequence[Network]) -> np.ndarray:
    return _codes(network.record.identity.method for network in networks)


def _codes(values: Iterable[object]) -> np.ndarray:
    """[n] int64, equal where the values are; in the order of their texts."""
    _, codes = np.unique([str(value) for value in values], return_inverse=True)
    return codes
