"""A column: everything that is known about a number in the tables, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A metric of a run, and how tables show its mean over seeds.

    Records carry the columns of their probes, so that tables also show what no installed probe measures.
    """

    name: str  # of the metric, as in robust_accuracy_l2: the name in csv and json, and what --sort takes
    header: str  # on a page; may hold {l2:g} and {linf:g}, the suite's radii
    factor: float = 1.0  # 100 for shares, which pages show in per cent
    digits: int = 3  # on a page
    ascending: bool = False  # small is good
    on_page: bool = True  # or in csv and json alone
    meaning: str = ""  # a sentence for the legend
