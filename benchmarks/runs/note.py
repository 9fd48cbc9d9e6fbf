"""Who is told how far runs have got."""

from collections.abc import Callable

Note = Callable[[str, str], None]  # is told the id of a run, and where it is, as in "in epoch 3 of 20"


def unheard(run_id: str, where: str) -> None:
    """A `Note` that tells nobody."""
