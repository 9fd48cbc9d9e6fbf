"""The repetitions of a plan, which end one after the other: then there is something to show."""

from collections import Counter
from collections.abc import Iterable

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.runs.plan import Cell


class Rounds:
    """Counts the runs that are left of each repetition."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._left = Counter(cell.repetition for cell in cells)

    def completed(self, record: Record | Training) -> bool:
        """Whether all rows have ended the repetition of the run that has just ended, and others are left."""
        self._left[record.repetition] -= 1
        return self._left[record.repetition] == 0 and self._left.total() > 0
