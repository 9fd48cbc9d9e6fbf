"""Letters and groups: every property of the display, against brute force on small tables."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from marginbench.benchmarks.statistics.letters import ALPHABET, cliques, groups, letters

Differ = list[list[bool]]


def tables(rows: int) -> Iterator[Differ]:
    """All of up to four rows, and random ones of more."""
    pairs = list(itertools.combinations(range(rows), 2))
    if rows <= 4:
        chosen = itertools.product((False, True), repeat=len(pairs))
    else:
        stream = np.random.default_rng(rows)
        chosen = ((stream.random(len(pairs)) < share).tolist() for share in np.linspace(0, 1, 60))
    for values in chosen:
        differ = [[False] * rows for _ in range(rows)]
        for (a, b), value in zip(pairs, values, strict=True):
            differ[a][b] = differ[b][a] = value
        yield differ


def explained(shown: list[str], differ: Differ) -> bool:
    """Rows share a letter if and only if they do not differ."""
    pairs = itertools.combinations(range(len(shown)), 2)
    return all(bool(set(shown[a]) & set(shown[b])) != differ[a][b] for a, b in pairs) and all(shown)


@pytest.mark.parametrize("rows", range(1, 9))
def test_letters_say_which_rows_differ_and_none_is_superfluous(rows: int) -> None:
    for differ in tables(rows):
        shown = letters(differ)
        assert explained(shown, differ)
        for row, own in enumerate(shown):
            for letter in own:
                less = [*shown[:row], own.replace(letter, ""), *shown[row + 1 :]]
                assert not explained(less, differ), f"{letter} of row {row} could go: {shown}"
        used = sorted(set("".join(shown)))
        assert shown[0][0] == "a" and used == list(ALPHABET[: len(used)])


@pytest.mark.parametrize("rows", range(1, 8))
def test_cliques_are_the_largest_sets_that_do_not_differ(rows: int) -> None:
    for differ in tables(rows):
        sets = [set(of) for k in range(1, rows + 1) for of in itertools.combinations(range(rows), k)]
        alike = [of for of in sets if not any(differ[a][b] for a in of for b in of)]
        largest = sorted(sorted(of) for of in alike if not any(of < other for other in alike))
        found = [[row for row in range(rows) if held >> row & 1] for held in cliques(differ)]
        assert found == largest


@pytest.mark.parametrize("rows", range(1, 9))
def test_no_two_rows_of_a_group_differ_and_no_group_could_be_larger(rows: int) -> None:
    for differ in tables(rows):
        found = groups(differ)
        assert found[0] == 1 and all(after - before in (0, 1) for before, after in itertools.pairwise(found))
        for a, b in itertools.combinations(range(rows), 2):
            assert found[a] != found[b] or not differ[a][b]
        for row in range(1, rows):
            if found[row] != found[row - 1]:
                assert any(differ[row][other] for other in range(row) if found[other] == found[row - 1])


def test_an_example_by_hand() -> None:
    """Four rows in a line, neighbours cannot be told apart."""
    differ = [[abs(a - b) > 1 for b in range(4)] for a in range(4)]
    assert letters(differ) == ["a", "ab", "bc", "c"] and groups(differ) == [1, 1, 2, 2]
    assert letters([]) == [] and groups([]) == []


def test_many_rows_have_letters_of_one_sign_each() -> None:
    differ = [[a != b for b in range(200)] for a in range(200)]
    shown = letters(differ)
    assert len(set(shown)) == 200 and {len(text) for text in shown} == {1}
