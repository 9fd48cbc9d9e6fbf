"""What predicts what in a suite, and how near the estimators of the margin are to it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.figures.scan import FIGURES
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.reports.panels import Panel, panel
from marginbench.benchmarks.tables.margins import Networks, margins
from marginbench.benchmarks.tables.margins_words import sentences
from marginbench.benchmarks.tables.tightness import tightness

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Near:
    """How near one estimator is to the margin."""

    norm: str
    beside: str  # exact, or attacked where that is not known
    estimator: str
    kind: str
    points: int
    answered: float  # share of the points for which it says anything
    median: float  # ratio to the margin
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """In words, as a figure, and as a table."""

    words: Sequence[str] = ()  # in Markdown
    figure: Panel | None = None
    near: Sequence[Near] = ()


def predictions(networks: Networks) -> Mapping[str, Prediction]:
    """By fingerprint of the suite."""
    frame, ratios = margins(networks, information=False), tightness(networks)
    log.info("report: what predicts what")
    found = {}
    for suite in {*frame["suite_fingerprint"], *ratios["suite_fingerprint"]}:
        lines: list[dict[str, Any]] = frame[frame["suite_fingerprint"] == suite].to_dict("records")
        found[suite] = Prediction(
            sentences(lines) if lines else (),
            panel(FIGURES["predictors"], frame, {"suite": suite}) if lines else None,
            [_near(line) for line in ratios[ratios["suite_fingerprint"] == suite].to_dict("records")],
        )
    return found


def _near(line: Mapping[str, Any]) -> Near:
    names = ("beside", "estimator", "kind", "points", "answered", "median", "low", "high")
    return Near(NORM_TEXT[line["norm"]], *(line[name] for name in names))
