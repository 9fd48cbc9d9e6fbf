"""Numbers and lists of things."""

from marginbench.methods.words import counted, few, listed


def test_words_agree_with_numbers() -> None:
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [counted(number, "study", "studies") for number in (1, 2)] == ["1 study", "2 studies"]


def test_lists_are_sentences() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [few(["a", "b", "c"], most) for most in (3, 2, 1)] == ["a, b and c", "a, b and 1 more", "a and 2 more"]
