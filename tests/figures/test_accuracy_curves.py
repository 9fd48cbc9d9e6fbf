"""Curves against epsilon say what the tables say, and what bounds allow."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_support import STRENGTH, data_of, marks, some_arrays
from made import EPSILON, a_record

from marginbench.benchmarks.figures.accuracy_curves import ends
from marginbench.benchmarks.figures.bands import POINTS, Grid, grid_to
from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import write_record

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("suite", ["digits_exact", "digits_smooth", "mnist"])
def test_at_epsilon_curves_are_the_columns_of_the_table(suite: str, norm: Any) -> None:
    rows = rows_of(REFERENCE / suite)
    at = Grid(rows.epsilon[norm], 1.0, 1)
    for row in rows.runs:
        found = ends(rows, row, norm, at)
        robust, certified = (rows.table[row].mean(f"{kind}_accuracy_{norm}")[0] for kind in ("robust", "certified"))
        assert found["upper"] == pytest.approx([robust], abs=1e-12)
        if math.isnan(certified):
            assert found["lower"] is None
        else:
            assert found["lower"] == pytest.approx([certified], abs=1e-12)


def test_the_grid_goes_through_epsilon() -> None:
    for limit, through in ((0.5, 0.1), (0.2, 0.1), (0.31, 8 / 255), (1.5, 1.0), (0.1, 0.1)):
        grid = grid_to(limit, through)
        assert grid.count <= POINTS and grid.start == 0
        assert np.abs(grid.values - through).min() < 1e-12
        assert limit <= grid.values[-1] * (1 + 1e-9) or grid.count == POINTS


def test_curves_are_those_of_a_slow_count(board: Path) -> None:
    rows, grid = rows_of(board), grid_to(0.3, 0.1)
    found = ends(rows, "mma", "linf", grid)
    for i, radius in enumerate(grid.values):
        robust = certified = 0
        for seed in range(3):
            arrays = some_arrays(STRENGTH["mma"], seed)
            for point in range(len(arrays["label"])):
                right = arrays["label"][point] == arrays["prediction"][point]
                robust += bool(right and arrays["upper_linf"][point] > np.float32(radius))
                certified += bool(right and arrays["lower_linf"][point] >= np.float32(radius))
        assert found["upper"] is not None and found["upper"][i] == pytest.approx(robust / 120)
        assert found["lower"] is not None and found["lower"][i] == pytest.approx(certified / 120)


def test_a_bound_at_the_radius_is_certified_and_not_robust(tmp_path: Path) -> None:
    """Of four correct images two have bounds at the radius itself; float32 has no 0.1."""
    at, zero = np.float32(0.1), np.zeros(4, dtype=np.int64)
    upper, lower = np.array([at, 0.2, 0.3, at]), np.array([0.05, at, at, 0.0])
    arrays = {"label": zero, "prediction": zero, "output_margin": np.ones(4)}
    for norm in EPSILON:
        arrays |= {f"upper_{norm}": upper.astype(np.float32), f"lower_{norm}": lower.astype(np.float32)}
        arrays[f"lower_{norm}_crown"] = arrays[f"lower_{norm}"]
    write_record(tmp_path / "runs", a_record("ce", metrics=summarise(arrays, EPSILON)), arrays)
    found = ends(rows_of(tmp_path), "ce", "linf", Grid(0.1, 1.0, 1))
    assert found["upper"] == pytest.approx([2 / 4]) and found["lower"] == pytest.approx([2 / 4])


def test_the_axis_ends_where_the_most_robust_row_has_five_per_cent_left(board: Path) -> None:
    """`mma`: at about 2.8 epsilon, between the 1.5 and 5 that are allowed."""
    distances = np.concatenate([some_arrays(STRENGTH["mma"], seed)["upper_linf"] for seed in range(3)])
    grid = grid_to(float(np.quantile(distances, 0.95)), EPSILON["linf"])
    (one,) = [one for one in data_of(plot("accuracy_curves", board, norm="linf"), "upper") if one["row"] == "mma"]
    assert 2 * EPSILON["linf"] < grid.values[-1] and len(one["upper"]) == grid.count
    robust = ends(rows_of(board), "mma", "linf", grid)["upper"]
    assert robust is not None and one["upper"] == pytest.approx(robust, abs=1e-4)


def test_the_gap_is_shaded_where_something_is_certified(board: Path) -> None:
    with_gap = marks(plot("accuracy_curves", board, picked=["ce", "mma"]))
    assert with_gap["area mark"] == 2 and with_gap["line mark"] == 4 + 2 * 2  # grey ones; robust and certified
    without = marks(plot("accuracy_curves", board, picked=["arcface(m=0.3)"]))
    assert without["area mark"] == 0 and without["line mark"] == 5 + 1


def test_a_row_stands_once_in_the_data(board: Path) -> None:
    values = data_of(plot("accuracy_curves", board), "upper")
    assert sorted(one["row"] for one in values) == sorted([*STRENGTH, "cutout"])
    assert all(len(one["upper"]) <= POINTS for one in values)
    assert next(one for one in values if one["row"] == "arcface(m=0.3)")["lower"] == []


def test_the_suites_radius_is_marked(board: Path) -> None:
    for norm, epsilon in EPSILON.items():
        (ruler,) = data_of(plot("accuracy_curves", board, norm=norm), "text")
        assert ruler == {"x": epsilon, "text": f"ε = {epsilon:g}"}
