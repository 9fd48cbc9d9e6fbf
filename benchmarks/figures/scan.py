"""All figures: found by scanning this folder, and those of plug-ins. A new one needs no line here."""

from marginbench.benchmarks.figures.figure import FIGURES, Figure, figure
from marginbench.benchmarks.registry import import_all

__all__ = ["FIGURES", "Figure", "figure"]

import_all("marginbench.benchmarks.figures")
