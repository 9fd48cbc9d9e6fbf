"""Numbers and lists of things, in words that agree."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 run`, `2 runs`; the plural where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def few(names: Sequence[str], most: int) -> str:
    """The first names as `listed`, and how many more there are: `a, b and 3 more`."""
    more = len(names) - most
    return listed([*names[:most], f"{more} more"] if more > 0 else names)
