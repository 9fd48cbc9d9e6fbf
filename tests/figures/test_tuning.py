"""What the figures of a tuning show, and what they say where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
from figure_support import data_of, marks, texts, write_row
from made import a_tuning

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.scan import FIGURES
from marginbench.benchmarks.reports.make import report
from marginbench.methods.errors import MarginbenchError, ParameterError

NAMES = sorted(name for name, figure in FIGURES.items() if figure.of == "tuning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row, strength in (("ce", 0.5), ("mma", 1.0), ("pgd_at", 0.9)):
        tuning = a_tuning(row, robust=True)
        write_row(tmp_path, row, strength)
        write_row(tmp_path, tuning.name, strength, tuning=tuning)
    return tmp_path


def test_the_history_is_the_best_so_far(folder: Path) -> None:
    chart = plot("tuning_history", folder, picked=["mma+tuned"])
    points = [point for point in data_of(chart, "trial") if point["row"] == "mma+tuned"]
    assert [point["trial"] for point in points] == [0, 1, 2, 3]
    assert [point["best"] for point in points] == [0.2, 0.2, 0.4, 0.4]  # trial 1 is below the floor, 3 failed
    assert [point["value"] for point in points] == [0.2, None, 0.4, None]
    assert "mma+tuned" in texts(chart)


def test_the_importance_is_a_bar_of_shares(folder: Path) -> None:
    chart = plot("tuning_importance", folder, picked=["mma+tuned"])
    parts = [part for part in data_of(chart, "share") if part["row"] == "mma+tuned"]
    assert [(part["name"], part["start"], part["end"]) for part in parts] == [("x", 0, 0.9), ("learning rate", 0.9, 1)]
    assert marks(chart)["bar"] == 6 and "x" in texts(chart) and "learning rate" not in texts(chart)


def test_the_front_leaves_out_what_is_beaten(folder: Path) -> None:
    points = [p for p in data_of(plot("tuning_front", folder), "clean") if p["row"] == "ce+tuned"]
    assert [(p["clean"], p["robust"], p.get("front", False), p.get("chosen", False)) for p in points] == [
        (0.8, 0.2, False, False),
        (0.7, 0.5, True, False),
        (0.9, 0.4, True, True),
    ]


def test_every_floor_is_marked(folder: Path) -> None:
    assert [p["floor"] for p in data_of(plot("tuning_front", folder), "floor")] == [0.75]
    tuning = a_tuning("svm", robust=True, floor=0.7)
    write_row(folder, "svm", 0.5)
    write_row(folder, tuning.name, 0.5, tuning=tuning)
    assert [p["floor"] for p in data_of(plot("tuning_front", folder), "floor")] == [0.7, 0.75]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_where_rows_are_tuned(folder: Path, tmp_path: Path, name: str) -> None:
    assert marks(plot(name, folder))["title"] == 1
    with pytest.raises(ParameterError, match="no such row"):
        plot(name, folder, picked=["mma+tune"])
    write_row(tmp_path / "other", "ce", 0.5)
    with pytest.raises(MarginbenchError, match="no row is tuned; see `marginbench tune --help`"):
        plot(name, tmp_path / "other")


def test_the_report_has_all_of_them(folder: Path, tmp_path: Path) -> None:
    page = report(folder, features=[]).html
    assert NAMES == ["tuning_front", "tuning_history", "tuning_importance"]
    assert "tuning, trial by trial" in page and "what mattered in tuning" in page and "had to choose from" in page
    assert "Trial 2 of 4 by pareto on validation images (the default, 3 drawn at random; seed 0, 2026-01-01)" in page
    write_row(tmp_path / "other", "ce", 0.5)
    assert "tuning, trial by trial" not in report(tmp_path / "other", features=[]).html


def test_the_row_that_gained_most_is_picked_beside_the_first(tmp_path: Path) -> None:
    """Not the one whose chosen trial is the best: that had been as good by default."""
    high = [replace(trial, clean_accuracy=0.95, value=0.95) for trial in a_tuning("high").history[:3]]
    for tuning in (a_tuning("ce", chosen=0), a_tuning("high", history=high), a_tuning("mma")):
        write_row(tmp_path, tuning.name, 0.5, tuning=tuning)
    for name in ("tuning_history", "tuning_importance"):
        (picked,) = plot(name, tmp_path).to_dict()["params"]
        assert picked["value"] == ["ce+tuned", "mma+tuned"]


def test_of_equal_gains_the_last_by_name_is_picked(tmp_path: Path) -> None:
    """0.2 - 0.1 is more than 0.9 - 0.8 in floats."""
    for row, clean in (("ce", (0.5, 0.5)), ("mma", (0.1, 0.2)), ("pmm", (0.8, 0.9))):
        trials = zip(a_tuning(row).history, clean, strict=False)
        history = [replace(trial, clean_accuracy=value, value=value) for trial, value in trials]
        tuning = a_tuning(row, chosen=1, history=history)
        write_row(tmp_path, tuning.name, 0.5, tuning=tuning)
    (picked,) = plot("tuning_history", tmp_path).to_dict()["params"]
    assert picked["value"] == ["ce+tuned", "pmm+tuned"]


def test_what_was_tuned_for_one_number_has_no_front(tmp_path: Path) -> None:
    tuning = a_tuning("ce", importance={})
    write_row(tmp_path, tuning.name, 0.5, tuning=tuning)
    with pytest.raises(MarginbenchError, match="--objective pareto"):
        plot("tuning_front", tmp_path)
    with pytest.raises(MarginbenchError, match="of no row it is known what mattered"):
        plot("tuning_importance", tmp_path)
    values = [point["best"] for point in data_of(plot("tuning_history", tmp_path), "trial")]
    assert values == [0.8, 0.8, 0.9, 0.9]
