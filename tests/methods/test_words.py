"""Numbers of things."""

from marginbench.methods.words import counted


def test_words_agree_with_numbers() -> None:
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [counted(number, "study", "studies") for number in (1, 2)] == ["1 study", "2 studies"]
