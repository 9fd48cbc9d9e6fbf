"""Trainings against the epoch."""

from pathlib import Path

import pytest
from figure_support import data_of, marks, write_row

from marginbench.benchmarks.figures.draw import plot
from marginbench.methods.errors import MarginbenchError, ParameterError


def test_errors_are_means_over_seeds(board: Path) -> None:
    chart = plot("learning_curves", board, picked=["ce"])
    own = [one for one in data_of(chart, "epoch") if one["row"] == "ce"]
    assert [one["epoch"] for one in own] == [1, 2, 4]
    assert [one["train"] for one in own] == pytest.approx([0.2, 0.1, 0.05])
    assert [one["validation"] for one in own] == pytest.approx([0.29, 0.19, 0.14])  # seeds differ by 0.01
    assert marks(chart)["line mark"] == 5 + 2 and marks(chart)["point"] == 6


def test_other_quantities(board: Path) -> None:
    loss = data_of(plot("learning_curves", board, quantity="loss"), "epoch")
    assert {(one["train"], one["validation"]) for one in loss} == {(0.1, 0.3)}
    objective = data_of(plot("learning_curves", board, quantity="objective"), "epoch")
    assert [(one["epoch"], one["train"]) for one in objective if one["row"] == "ce"] == [(1, 2), (2, 1)]
    assert "validation" not in objective[0]
    with pytest.raises(ParameterError, match="error, loss, objective"):
        plot("learning_curves", board, quantity="accuracy")


def test_an_epoch_counts_where_all_seeds_were_measured(tmp_path: Path) -> None:
    write_row(tmp_path, "ce", 0.5, seeds=2, epochs=(1, 2, 4))
    write_row(tmp_path, "ce", 0.5, seeds=3, first=2, epochs=(2, 3, 4))
    assert [one["epoch"] for one in data_of(plot("learning_curves", tmp_path), "epoch")] == [2, 4]


def test_one_point_is_no_curve(tmp_path: Path) -> None:
    write_row(tmp_path, "ce", 0.5, epochs=(4,))
    with pytest.raises(MarginbenchError, match="run-all --fresh --curve-every 1"):
        plot("learning_curves", tmp_path)
