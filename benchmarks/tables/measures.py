"""The margins of one network as single numbers, and what they might predict."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.records.record import Record
from marginbench.methods import NORMS

KNOWN = 1e-3  # relative distance of two bounds below which the margin between them counts as known
CORRECT = "correct"  # the test images that are classified correctly
ALL = "all"  # all test images, 0 or less for a wrong class: accuracy is part of it
TRAIN = "train"  # training images that are classified correctly
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """A record that ended well, with its per-point arrays."""

    record: Record
    arrays: Arrays

    @property
    def right(self) -> np.ndarray:
        """[N] bool: is the class right?"""
        right: np.ndarray = self.arrays["prediction"] == self.arrays["label"]
        return right


@dataclass(frozen=True)
class Measure:
    """A margin measure: one number, or several, of a network."""

    name: str
    title: str
    over: str  # the images: CORRECT, ALL or TRAIN
    of: Callable[[Network], Any]  # float or [p] float64; NaN where it was not measured
    decides: str = ""  # the beginning of the target that is made of the same bounds
    on_page: bool = True


@dataclass(frozen=True)
class Target:
    """What is to be predicted: a metric of the record."""

    name: str
    title: str
    sign: int = 1  # -1 where a large margin should make it small

    def shares(self, measure: Measure) -> str:
        """What a measure has in common with the target by construction: `bounds`, `accuracy`, `images` or nothing."""
        if measure.decides and self.name.startswith(measure.decides):
            return "bounds"
        if self.name == "generalisation_gap" or measure.over == TRAIN:
            return ""
        return "accuracy" if measure.over == ALL else "images"


TARGETS = (
    Target("clean_accuracy", "test accuracy"),
    Target("generalisation_gap", "generalisation gap", sign=-1),
    *(
        Target(f"{kind}_accuracy_{norm}", f"{kind} accuracy {NORM_TEXT[norm]}")
        for kind in ("robust", "certified")
        for norm in reversed(NORMS)
    ),
)
LAYERS = ("input", "hidden_1", "hidden_2", "hidden_3")  # as the probe `linearised_margin` names its metrics
NUMBERS = ("lower_fence", "q1", "median", "q3", "upper_fence")


def _measures() -> tuple[Measure, ...]:
    """All of them, those over correct images before those over all."""
    made: list[Measure] = []
    for over in (CORRECT, ALL):
        made += [
            Measure("output_margin", "output margin", over, _mean(over, lambda n: n.arrays.get("output_margin"))),
            Measure("feature_margin", "feature margin", over, _mean(over, lambda n: n.arrays.get("feature_margin"))),
        ]
        for norm in NORMS:
            end = NORM_TEXT[norm]
            made += [
                Measure(
                    f"attacked_{norm}", f"attacked {end}", over, _mean(over, _array(f"upper_{norm}")), _robust(norm)
                ),
                Measure(f"certified_{norm}", f"certified {end}", over, _mean(over, _lower(norm)), _certified(norm)),
                Measure(f"exact_{norm}", f"exact {end}", over, _mean(over, partial(exact_margins, norm=norm))),
                Measure(f"clever_{norm}", f"CLEVER {end}", over, _mean(over, _array(f"clever_{norm}"))),
            ]
    for layer in LAYERS:
        for number in ("q1", "median", "q3"):
            name = f"linearised_{layer}_{number}"
            title = f"linearised ({layer.replace('_', ' ')}, {number})"
            made.append(Measure(name, title, TRAIN, _metric(name), on_page=number == "median"))
    made.append(Measure("linearised_signature", "linearised (all quartiles)", TRAIN, _signature))
    made.append(Measure("constrained_margin", "constrained L2", TRAIN, _metric("constrained_margin")))
    return tuple(made)


def exact_margins(network: Network, norm: str) -> np.ndarray | None:
    """[N] the margins where two bounds meet, NaN where they do not; None for less than half of the correct images."""
    if f"upper_{norm}" not in network.arrays:  # of sentences
        return None
    upper, lower = (network.arrays[f"{side}_{norm}"].astype(float) for side in ("upper", "lower"))
    with np.errstate(invalid="ignore"):
        found = np.where(np.isfinite(upper) & (lower >= (1 - KNOWN) * upper), upper, np.nan)
    known = ~np.isnan(found[network.right])
    return found if known.any() and known.mean() >= 0.5 else None


def _robust(norm: str) -> str:
    return f"robust_accuracy_{norm}"


def _certified(norm: str) -> str:
    return f"certified_accuracy_{norm}"


def _array(name: str) -> Callable[[Network], np.ndarray | None]:
    return lambda network: network.arrays.get(name)


def _lower(norm: str) -> Callable[[Network], np.ndarray | None]:
    def radii(network: Network) -> np.ndarray | None:
        asked = any(name.startswith(f"lower_{norm}_") for name in network.arrays)
        return network.arrays[f"lower_{norm}"] if asked and not network.record.at_epsilon else None

    return radii


def _mean(over: str, values: Callable[[Network], np.ndarray | None]) -> Callable[[Network], float]:
    """The mean over correct or all images that have a value."""

    def mean(network: Network) -> float:
        found = values(network)
        if found is None:
            return math.nan
        chosen = found[network.right] if over == CORRECT else found
        known = chosen[~np.isnan(chosen)].astype(float)
        return float(known.mean()) if known.size else math.nan

    return mean


def _metric(name: str) -> Callable[[Network], float]:
    return lambda network: network.record.metrics.get(name, math.nan)


def _signature(network: Network) -> np.ndarray:
    """[20] logarithms, as in Jiang et al. (ICLR 2019, section 4); NaN where a layer is missing or a margin is 0."""
    names = [f"linearised_{layer}_{number}" for layer in LAYERS for number in NUMBERS]
    values = np.array([network.record.metrics.get(name, math.nan) for name in names])
    return np.log(np.where(values > 0, values, np.nan))


MEASURES = _measures()
