"""Dots and whiskers."""

from pathlib import Path

import pytest
from figure_support import data_of, marks, texts

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.methods.errors import ParameterError


def test_every_row_has_a_dot_and_a_whisker_from_three_seeds_on(board: Path) -> None:
    chart = plot("intervals", board, picked=["mma"])
    assert marks(chart)["point"] == 6
    assert marks(chart)["rule mark"] == 5 + 1  # cutout has two seeds; the baseline is a ruler
    mean, half = rows_of(board).table["mma"].mean("robust_accuracy_l2")
    (own,) = [one for one in data_of(chart, "mean") if one["row"] == "mma"]
    assert half is not None
    assert [own["low"], own["mean"], own["high"]] == pytest.approx([mean - half, mean, mean + half], rel=1e-3)


@pytest.mark.parametrize("column", ["robust_accuracy_l2", "cost"])
def test_the_best_rows_come_first(column: str, board: Path) -> None:
    chart = plot("intervals", board, column=column)
    means = [one["mean"] for one in data_of(chart, "mean")]
    assert means == sorted(means, reverse=column != "cost")


def test_some_rows_alone(board: Path) -> None:
    chart = plot("intervals", board, methods=["ce", "mixup"], picked=["ce"])
    assert marks(chart)["point"] == 2 and "mma" not in texts(chart)
    with pytest.raises(ParameterError, match="methods='mna'"):
        plot("intervals", board, methods=["mna"])
