"""What a row buys: fronts of accuracies against cost, and of robustness against accuracy, by the means of the rows."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.statistics.fronts import front
from marginbench.benchmarks.tables import columns

Means = Mapping[str, float]  # by column


@dataclass(frozen=True)
class Front:
    """The rows that no other beats in both columns."""

    quality: Column
    against: Column  # a cost, or clean accuracy


FRONTS = tuple(
    Front(quality, against)
    for against in (*columns.COSTS, columns.ACCURACIES[0])
    for quality in columns.ACCURACIES
    if quality is not against
)


def on_fronts(rows: Sequence[Means]) -> list[dict[str, str]]:
    """Of each row of a suite, by the names of `columns.PARETO`, the columns in which it is on the front."""
    found: list[dict[str, list[str]]] = [defaultdict(list) for _ in rows]
    for of in FRONTS:
        sign = -1 if of.against.ascending else 1
        points = [(sign * row.get(of.against.name, math.nan), row.get(of.quality.name, math.nan)) for row in rows]
        for texts, on in zip(found, front(points), strict=True):
            if on:
                texts[f"pareto_{of.against.name}"].append(of.quality.name)
    return [{column.name: " ".join(texts[column.name]) for column in columns.PARETO} for texts in found]
