"""Points, fronts and intervals of one column against another."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from figure_support import STRENGTH, data_of, marks, some_arrays, texts
from made import EPSILON
from scipy import stats

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.scatter import LETTER, Quantity, pareto, readable
from marginbench.methods.errors import MarginbenchError, ParameterError


@pytest.mark.parametrize("ascending", [(False, False), (True, False), (False, True), (True, True)])
def test_the_front_is_what_nothing_dominates(ascending: tuple[bool, bool]) -> None:
    draw = random.Random(0)
    points = {str(i): (draw.randint(0, 8) / 8, draw.randint(0, 8) / 8) for i in range(40)}
    x, y = (Quantity("", ascending=small) for small in ascending)
    front = pareto(points, x, y)

    def at_least(a: float, b: float, small: bool) -> bool:
        return a <= b if small else a >= b

    for name, own in points.items():
        beaten = any(
            other != own and at_least(other[0], own[0], ascending[0]) and at_least(other[1], own[1], ascending[1])
            for other in points.values()
        )
        assert (name in front) != beaten
    assert [points[name][0] for name in front] == sorted(points[name][0] for name in front)


def test_every_row_is_a_point_and_the_front_is_ringed(board: Path) -> None:
    chart = plot("cost", board, picked=["ce", "mma"])
    values = {one["row"]: one for one in data_of(chart, "x")}
    front = [row for row, one in values.items() if one.get("front")]
    assert len(values) == 6 and front
    assert marks(chart)["point"] == 6 + len(front)
    assert marks(chart)["rule mark"] == 4  # intervals of two rows, in both directions
    assert set(front) == {"arcface(m=0.3)", "ce", "cutout", "mixup", "pgd_at", "mma"} - beaten(values)
    assert values["mma"]["x"] == pytest.approx(1.0 / 0.5)  # seconds, relative to ce
    assert plot("cost", board, unit="passes").to_dict()["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


def beaten(values: dict[str, dict[str, float]]) -> set[str]:
    return {
        row
        for row, one in values.items()
        if any(
            (other["x"], -other["y"]) != (one["x"], -one["y"]) and other["x"] <= one["x"] and other["y"] >= one["y"]
            for other in values.values()
        )
    }


def test_names_of_the_front_stay_inside_and_apart() -> None:
    names = [f"a_name_of_a_row_{i}" for i in range(12)]
    draw = random.Random(0)
    points = {name: (draw.uniform(1, 20), draw.uniform(0, 1)) for name in names}
    points |= {"first_of_all": (1.0, 0.5), "last_of_all": (20.0, 0.5)}
    for x in (Quantity("", ascending=True, logarithmic=True), Quantity("")):
        sides = readable(points, list(points), ((1.0, 20.0), (0.0, 1.0)), (x, Quantity("")))
        assert not sides.get("first_of_all") and sides.get("last_of_all", True)
        assert 2 <= len(sides) < len(points), "they cannot all be written"


def test_names_cover_no_point() -> None:
    """On the side where nothing is better; on the other one where there is no room; nowhere if that is full."""
    domains, x = ((0.0, 1.0), (0.0, 1.0)), Quantity("", ascending=True)
    points = {"first": (0.05, 0.2), "second": (0.5, 0.6), "third": (0.9, 0.9), "grey": (0.45, 0.95)}
    assert readable(points, ["first", "second", "third"], domains, (x, Quantity(""))) == {
        "first": False,
        "second": True,
        "third": True,
    }
    for place, wanted in (((0.1, 0.22), {}), ((0.1, 0.4), {"first": False})):
        assert readable(points | {"near": place}, ["first"], domains, (x, Quantity(""))) == wanted
    assert readable(points, ["first"], domains, (Quantity(""), Quantity(""))) == {"first": False}


def test_the_axis_makes_room_for_names(board: Path) -> None:
    for name, small_is_good in (("cost", True), ("accuracy_tradeoff", False)):
        chart = plot(name, board)
        values = data_of(chart, "x")
        on_front = [one for one in values if one.get("front")]
        domain = next(layer["encoding"]["x"]["scale"]["domain"] for layer in chart.to_dict()["layer"])
        place = math.log if small_is_good else float
        low, high = (place(end) for end in domain)
        end = min if small_is_good else max
        first = end(on_front, key=lambda one: one["x"])
        share = (place(first["x"]) - low) / (high - low)
        room = share if small_is_good else 1 - share
        assert room >= LETTER * len(first["row"]) and first["left"] is small_is_good


def test_cost_in_passes_needs_no_baseline_on_the_machine(board: Path) -> None:
    values = {one["row"]: one["x"] for one in data_of(plot("cost", board, unit="passes"), "x")}
    assert values["ce"] == 1 and values["mma"] == pytest.approx(12 / 7, rel=1e-3)
    with pytest.raises(ParameterError, match="seconds or passes"):
        plot("cost", board, unit="hours")


def test_intervals_are_those_of_the_table(board: Path) -> None:
    chart = plot("accuracy_tradeoff", board, column="certified_accuracy_linf", picked=["ce"])
    names = {one["row"] for one in data_of(chart, "x")}
    assert names == {"ce", "mma", "pgd_at", "mixup", "cutout"}, "arcface has no certificate"
    assert "certified accuracy L∞ 0.1" in texts(chart)
    own = next(one for one in data_of(chart, "x") if one["row"] == "mma")
    of_seeds = [some_arrays(STRENGTH["mma"], seed)["lower_linf"] for seed in range(3)]  # 0 where the class is wrong
    shares = [float(np.mean(lower >= np.float32(EPSILON["linf"]))) for lower in of_seeds]
    half = float(stats.t.ppf(0.975, 2)) * np.std(shares, ddof=1) / 3**0.5
    first, last = chart.to_dict()["layer"][0]["encoding"]["y"]["scale"]["domain"]
    ends = max(np.mean(shares) - half, first), min(np.mean(shares) + half, last)
    assert [own[key] for key in ("y", "y1", "y2")] == pytest.approx([np.mean(shares), *ends], abs=1e-4)
    assert own["x"] == pytest.approx(0.9) and own["x1"] < 0.9 < own["x2"], "clean accuracy"


def test_the_best_where_small_is_good_is_the_smallest(board: Path) -> None:
    """By default it is picked beside the baseline."""
    for column, best in (("cost", "arcface(m=0.3)"), ("robust_accuracy_l2", "mma")):
        (picked,) = plot("intervals", board, column=column).to_dict()["params"]
        assert picked["value"] == ["ce", best]


def test_a_column_that_no_row_has_is_refused(board: Path) -> None:
    with pytest.raises(MarginbenchError, match="no row of suite toy has it"):
        plot("accuracy_tradeoff", board, column="generalisation_gap")
    with pytest.raises(ParameterError, match="did you mean 'certified_accuracy_l2'"):
        plot("accuracy_tradeoff", board, column="certified_acuracy_l2")
