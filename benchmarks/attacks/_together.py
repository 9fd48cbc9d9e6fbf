"""Several starts or targets of the same images at once: a network is asked about many in hardly more time than one."""

from marginbench.benchmarks.machine.memory import ROWS


def copies_at_once(images: int, fitting: int | None) -> int:
    """How many copies of so many images go through the network at once, one at least.

    Args:
        fitting: images that memory holds, see `Query.fitting`.
    """
    return max(1, min(ROWS, ROWS if fitting is None else fitting) // max(1, images))
