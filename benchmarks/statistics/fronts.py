"""Pareto fronts of two numbers, both of which should be large."""

import itertools
import math
from collections.abc import Sequence

from marginbench.benchmarks.statistics.level import levels


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point, whether no other is at least as large in both and larger in one. NaN is on no front.

    What differs by rounding alone is as large.
    """
    points = list(zip(levels(x for x, _ in points), levels(y for _, y in points), strict=True))
    kept = sorted({point for point in points if not any(map(math.isnan, point))})
    on: set[tuple[float, float]] = set()
    best = None
    for _, group in itertools.groupby(reversed(kept), key=lambda point: point[0]):
        largest = next(group)  # of the second number
        if best is None or largest[1] > best:
            on.add(largest)
            best = largest[1]
    return [point in on for point in points]
