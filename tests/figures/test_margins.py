"""Distributions of margins."""

from pathlib import Path

import numpy as np
import pytest
from figure_support import STRENGTH, data_of, marks, some_arrays, write_row
from made import EPSILON, a_record

from marginbench.benchmarks.figures.bands import POINTS
from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import write_record


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distributions_are_those_of_the_correct_images(norm: str, board: Path) -> None:
    chart = plot("margin_distribution", board, norm=norm)
    step = max(row_limit(row, norm) for row in STRENGTH) / (POINTS - 1)
    for one in data_of(chart, "upper"):
        if one["row"] != "mma":
            continue
        for end in ("upper", "lower"):
            wanted = np.mean([share(own[f"{end}_{norm}"][own["correct"]], step) for own in arrays_of("mma")], axis=0)
            assert one[end] == pytest.approx(wanted, abs=1e-4)
            assert one[end] == sorted(one[end]) and one[end][-1] <= 1
        assert all(certified >= found for certified, found in zip(one["lower"], one["upper"], strict=True))


def test_a_margin_at_the_place_itself_is_within_it(tmp_path: Path) -> None:
    """Nothing is certified of one image in four: that is what is known at 0."""
    zero, lower = np.zeros(4, dtype=np.int64), np.array([0.0, 0.1, 0.2, 0.3], dtype=np.float32)
    arrays = {"label": zero, "prediction": zero, "output_margin": np.ones(4)}
    for norm in EPSILON:
        arrays |= {f"upper_{norm}": 2 * lower + 0.1, f"lower_{norm}": lower, f"lower_{norm}_crown": lower}
    write_record(tmp_path / "runs", a_record("ce", metrics=summarise(arrays, EPSILON)), arrays)
    (one,) = data_of(plot("margin_distribution", tmp_path), "upper")
    assert (one["lower"][0], one["upper"][0]) == (0.25, 0)


def test_feature_margins_are_negative_where_an_image_is_misclassified(board: Path) -> None:
    chart = plot("feature_margins", board, picked=["mma"])
    (one,) = [values for values in data_of(chart, "upper") if values["row"] == "mma"]
    axis = np.quantile(np.concatenate([own["feature_margin"] for own in arrays_of("mma")]), 0.005)
    wrong = 0.1  # of the images
    assert axis < 0 and one["upper"][0] < wrong
    assert min(one["upper"], key=lambda value: abs(value - wrong)) == pytest.approx(wrong, abs=0.02)
    assert marks(chart)["line mark"] == 6


def test_the_axis_of_feature_margins_spans_those_of_all_rows(tmp_path: Path) -> None:
    own = []
    for row in ("ce", "mma"):
        write_row(tmp_path, row, STRENGTH[row])
        own.append(np.concatenate([arrays["feature_margin"] for arrays in arrays_of(row)]))
    low, high = min(np.quantile(of, 0.005) for of in own), max(np.quantile(of, 0.995) for of in own)
    transforms = plot("feature_margins", tmp_path).to_dict()["layer"][0]["transform"]
    (place,) = [one["calculate"] for one in transforms if one.get("as") == "x"]
    start, step = map(float, place.split(" + datum.i * "))
    assert (start, start + (POINTS - 1) * step) == pytest.approx((low, high), rel=1e-4)


def arrays_of(row: str) -> list[dict[str, np.ndarray]]:
    found = [some_arrays(STRENGTH[row], seed) for seed in range(3)]
    return [{**own, "correct": own["prediction"] == own["label"]} for own in found]


def row_limit(row: str, norm: str) -> float:
    pooled = np.concatenate([own[f"upper_{norm}"][own["correct"]] for own in arrays_of(row)])
    return float(np.quantile(pooled, 0.99))


def share(values: np.ndarray, step: float) -> list[float]:
    return [float(np.mean(values <= np.float32(step * i))) for i in range(POINTS)]
