"""Dots and error bars."""

from pathlib import Path

import pytest
from figure_support import STRENGTH, data_of, marks, texts, write_row

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.tables.standing import Standing
from marginbench.methods.errors import ParameterError


def test_every_row_has_a_dot_and_an_error_bar_from_three_seeds_on(board: Path) -> None:
    chart = plot("intervals", board, picked=["mma"])
    assert marks(chart)["point"] == 6
    assert marks(chart)["rule mark"] == 5 + 1  # cutout has two seeds; the baseline is a ruler
    assert marks(chart)["tick"] == 2 * 5, "an interval that its dot hides shows its ends"
    mean, half = rows_of(board).table["mma"].mean("robust_accuracy_l2")
    (own,) = [one for one in data_of(chart, "mean") if one["row"] == "mma"]
    assert half is not None
    assert [own["low"], own["mean"], own["high"]] == pytest.approx([mean - half, mean, mean + half], rel=1e-3)


@pytest.mark.parametrize("column", ["robust_accuracy_l2", "cost"])
def test_the_best_rows_come_first(column: str, board: Path) -> None:
    shown = data_of(plot("intervals", board, column=column), "mean")
    groups = [(one["group"], one["row"]) for one in shown if "group" in one]
    others = [one["mean"] for one in shown[len(groups) :]]
    assert groups == sorted(groups) and all("group" not in one for one in shown[len(groups) :])
    assert others == sorted(others, reverse=column != "cost")


@pytest.mark.parametrize(("column", "wanted"), [("cost", "ce mixup mma"), ("margin_upper_l2", "mma mixup ce")])
def test_rows_that_cannot_be_compared_are_in_the_order_of_their_means(column: str, wanted: str, tmp_path: Path) -> None:
    for row in ("mixup", "mma", "ce"):
        write_row(tmp_path, row, STRENGTH[row], seeds=2)
    assert [one["row"] for one in data_of(plot("intervals", tmp_path, column=column), "mean")] == wanted.split()


def test_letters_and_groups_where_they_are_known(board: Path) -> None:
    groups = {"ce": (2, "b"), "mma": (1, "a"), "pgd_at": (1, "ab"), "arcface(m=0.3)": (2, "b"), "mixup": (2, "b")}
    rows = rows_of(board)
    known = {
        (rows.fingerprint, row): {"robust_accuracy_l2": a_standing(0.5 - 0.1 * group, group, letters)}
        for row, (group, letters) in groups.items()
    }
    chart = plot("intervals", rows_of(board, known=known), picked=["mma"])
    shown = data_of(chart, "mean")
    assert [one["row"] for one in shown] == ["mma", "pgd_at", "arcface(m=0.3)", "ce", "mixup", "cutout"]
    assert [one.get("letters") for one in shown] == ["a", "ab", "b", "b", "b", None]
    assert {"a", "ab", "b", "Rows that share a letter cannot be told apart."} <= set(texts(chart))
    assert [shown[0][key] for key in ("mean", "low", "high", "ranks")] == [0.4, 0.35, 0.48, "1 to 2"]
    assert marks(chart)["rule mark"] == 5 + 1


def a_standing(mean: float, group: int, letters: str) -> Standing:
    ends = {"low": mean - 0.05, "high": mean + 0.08, "difference": 0.1, "difference_low": 0.0, "difference_high": 0.2}
    return Standing(mean=mean, n=3, p=0.01, best_rank=1, worst_rank=2, letters=letters, group=group, **ends)


def test_some_rows_alone(board: Path) -> None:
    chart = plot("intervals", board, methods=["ce", "mixup"], picked=["ce"])
    assert marks(chart)["point"] == 2 and "mma" not in texts(chart)
    with pytest.raises(ParameterError, match="methods='mna'"):
        plot("intervals", board, methods=["mna"])
