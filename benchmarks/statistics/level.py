"""Values that differ by rounding alone are level: means over seeds of the same counts, added in another order."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SHARE = 1e-12  # of the largest


def level(values: "np.ndarray") -> "np.ndarray":
    """Float64 of any shape in whole units, 1e-12 of the largest finite one, so that differences are exact, too."""
    import numpy as np

    finite = np.abs(values[np.isfinite(values)])
    unit = SHARE * finite.max() if finite.size else 0.0
    return np.rint(values / unit) if unit > 0 else values


def levels(values: Iterable[float]) -> list[float]:
    """`level` of numbers that are to be compared or sorted."""
    import numpy as np

    found: list[float] = level(np.array(list(values), dtype=np.float64)).tolist()
    return found
