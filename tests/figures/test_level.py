"""What figures pick and order where means differ by rounding alone: the first by name."""

from pathlib import Path

import pytest
from figure_support import data_of
from made import LEVEL, a_record

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.figures.scatter import Quantity, pareto
from marginbench.benchmarks.records.record import write_record
from marginbench.benchmarks.statistics.paired import mean_and_interval


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows that are not compared, as their arrays are not there."""
    for row, values in zip(("arcface", "kobayashi"), LEVEL, strict=True):
        for seed, value in enumerate(values):
            metrics = {"points": 360.0, "clean_accuracy": value, "robust_accuracy_l2": value}
            write_record(tmp_path / "runs", a_record(row, seed, metrics=metrics), {})
    return tmp_path


def test_the_first_is_picked(folder: Path) -> None:
    assert rows_of(folder).picked(None, "clean_accuracy") == ["arcface"]


def test_rows_without_a_group_are_in_order_of_their_names(folder: Path) -> None:
    shown = data_of(plot("intervals", folder, column="clean_accuracy"), "mean")
    assert [one["row"] for one in shown] == ["arcface", "kobayashi"] and all("group" not in one for one in shown)


def test_both_are_on_the_front() -> None:
    smaller, larger = (mean_and_interval(values)[0] for values in LEVEL)
    points = {"arcface": (1.0, smaller), "kobayashi": (1.0, larger), "ce": (2.0, larger)}
    assert set(pareto(points, Quantity("", ascending=True), Quantity(""))) == {"arcface", "kobayashi"}
