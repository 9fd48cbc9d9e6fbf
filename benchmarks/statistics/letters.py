"""Compact letter display: rows that share a letter cannot be told apart."""

import string
from collections.abc import Sequence

ALPHABET = string.ascii_letters + "".join(chr(code) for code in range(0x100, 0x1000) if chr(code).isalpha())


def cliques(differ: Sequence[Sequence[bool]]) -> list[int]:
    """The largest sets of rows no two of which differ, as bits, first those with the first rows.

    Insert and absorb (Piepho, Journal of Computational and Graphical Statistics 13, 2004, section 3), from the set of
    all rows on: a set that holds a row and others that differ from it becomes one without the row and one without
    these; sets inside others are dropped.

    Args:
        differ: [R][R], symmetric, of rows in the order of their means, the best first.
    """
    rows = len(differ)
    sets = [(1 << rows) - 1] if rows else []
    for row in range(rows):
        foes = sum(1 << other for other in range(rows) if differ[row][other])
        split = [part for held in sets for part in _split(held, 1 << row, foes)]
        split = sorted(set(split), key=int.bit_count, reverse=True)
        sets = []
        for part in split:
            if not any(part & larger == part for larger in sets):
                sets.append(part)
    return sorted(sets, key=_members)


def _split(held: int, row: int, foes: int) -> list[int]:
    return [held & ~row, held & ~foes] if held & row and held & foes else [held]


def _members(held: int) -> list[int]:
    return [row for row in range(held.bit_length()) if held >> row & 1]


def letters(differ: Sequence[Sequence[bool]]) -> list[str]:
    """The letters of each row, "a" for the best.

    Rows that differ share no letter, rows that do not share one, and no letter could be taken from a row: the last
    ones go first (Piepho's sweeping).

    Args: as `cliques`.
    """
    sets = [set(_members(held)) for held in cliques(differ)]
    for last in range(len(sets) - 1, -1, -1):
        for row in sorted(sets[last], reverse=True):
            if _spare(row, last, sets):
                sets[last].remove(row)
    sets = sorted((held for held in sets if held), key=sorted)
    return ["".join(ALPHABET[place] for place, held in enumerate(sets) if row in held) for row in range(len(differ))]


def _spare(row: int, here: int, sets: Sequence[set[int]]) -> bool:
    """Whether the row also shares another letter with all that share this one."""
    elsewhere = [held for place, held in enumerate(sets) if place != here and row in held]
    return bool(elsewhere) and all(any(other in held for held in elsewhere) for other in sets[here])


def groups(differ: Sequence[Sequence[bool]]) -> list[int]:
    """The group of each row, 1 for the best: no two rows of a group differ.

    A group takes rows in their order until one differs from any of it, which begins the next. So groups are as few as
    can be; two rows of neighbouring groups need not differ, which their letters tell.

    Args: as `cliques`.
    """
    out: list[int] = []
    first, number = 0, 1
    for row in range(len(differ)):
        if any(differ[row][other] for other in range(first, row)):
            first, number = row, number + 1
        out.append(number)
    return out
