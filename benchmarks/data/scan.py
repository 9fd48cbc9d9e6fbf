"""All transforms: found by scanning this folder, and those of plug-ins. A new one needs no line here."""

from marginbench.benchmarks.data.transform import TRANSFORMS, Transform, transform
from marginbench.benchmarks.registry import import_all

__all__ = ["TRANSFORMS", "Transform", "transform"]

import_all("marginbench.benchmarks.data")
