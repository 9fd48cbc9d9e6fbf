"""Shares of images are whole counts: where it is known of how many, what was rounded is made exact.

Older records hold shares in float32, and differences of shares differ by rounding even in float64: equal ones would not
be tied.
"""

import math
from collections.abc import Mapping

from marginbench.benchmarks.records.record import Record

ROUNDING = 2e-7  # how far float32 may move a share or the difference of two, and a little more
OF_VALIDATION = ("train_accuracy", "validation_accuracy", "generalisation_gap")  # as many training images


def exact_metrics(record: Record) -> dict[str, float]:
    """The metrics of a record; those of training and validation images are whole counts, by their number."""
    images = validation_images(record)
    own = {name: exact(record.metrics[name], images) for name in OF_VALIDATION if name in record.metrics}
    return {**record.metrics, **own}


def exact(share: float, images: int | None) -> float:
    """The share of a whole count of images that is one with this share but for rounding; else the share as it is."""
    if not images or not math.isfinite(share):
        return share
    nearest = round(share * images) / images
    return nearest if abs(share - nearest) <= ROUNDING else share


def validation_images(record: Record) -> int | None:
    """How many there are; None where that is not recorded."""
    data = record.suite.settings.get("data")
    found = data.get("validation") if isinstance(data, Mapping) else None
    return found if isinstance(found, int) else None
