"""A column: everything that is known about a number in the tables, in one place."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from marginbench.methods import Norm

NORM_TEXT: dict[str, str] = {"l2": "L2", "linf": "L∞"}  # in tables


@dataclass(frozen=True)
class Column:
    """A metric of a run, and how tables show its mean over seeds.

    Records carry the columns of their probes, so that tables also show what no installed probe measures.
    """

    name: str  # of the metric, as in robust_accuracy_l2: the name in csv and json, and what --by takes
    header: str  # on a page; may hold {l2:g} and {linf:g}, the suite's radii
    factor: float = 1.0  # 100 for shares, which pages show in per cent
    digits: int = 3  # on a page
    ascending: bool = False  # small is good
    on_page: bool = True  # or in csv and json alone
    meaning: str = ""  # a sentence for the legend

    def heading(self, epsilon: Mapping[Norm, float]) -> str:
        """The header, with the suite's radii, if it has any: one of sentences has none."""
        if not epsilon:
            return re.sub(r" ?\{.*?\}", "", self.header)
        return self.header.format(**{str(norm): radius for norm, radius in epsilon.items()})

    def text(self, value: float, half: float | None = None) -> str:
        """`97.3 ± 2.0` for a mean and half its interval, in the units of a page; — for NaN, ∞ or -∞ for infinity."""
        if math.isnan(value):
            return "—"
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{self.factor * value:.{self.digits}f}{self.plus_minus(half)}"

    def signed(self, difference: float) -> str:
        """`+1.2`, in the units of a page; +∞ or -∞ for an infinite difference, — for NaN."""
        if math.isnan(difference):
            return "—"
        if math.isinf(difference):
            return "+∞" if difference > 0 else "-∞"
        return f"{self.factor * difference:+.{self.digits}f}"

    def between(self, low: float, high: float) -> str:
        """` [+0.3, +2.1]` for the interval of a difference, in the units of a page; nothing where it is NaN."""
        return "" if math.isnan(low) else f" [{self.signed(low)}, {self.signed(high)}]"

    def plus_minus(self, half: float | None) -> str:
        """` ± 2.0` for half an interval, in the units of a page; nothing where it is None or NaN."""
        return "" if half is None or math.isnan(half) else f" ± {self.factor * half:.{self.digits}f}"
