"""F1 and Matthews correlation: against their formulas, and at limits."""

import math

import numpy as np
import pytest

from marginbench.benchmarks.records.scores import SCORES, scores

BOTH = ("f1", "matthews")


def arrays(label: list[int], prediction: list[int]) -> dict[str, np.ndarray]:
    return {"label": np.array(label), "prediction": np.array(prediction)}


def by_hand(label: list[int], prediction: list[int]) -> dict[str, float]:
    """From the four counts of the table of confusion."""
    pairs = list(zip(label, prediction, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (0, 1), (1, 0)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {"f1": 2 * tp / (2 * tp + fp + fn), "matthews": (tp * tn - fp * fn) / below}


@pytest.mark.parametrize("seed", range(5))
def test_they_follow_from_the_table_of_confusion(seed: int) -> None:
    stream = np.random.default_rng(seed)
    label, prediction = (stream.integers(0, 2, 40).tolist() for _ in range(2))
    assert scores(BOTH, arrays(label, prediction)) == pytest.approx(by_hand(label, prediction))


@pytest.mark.parametrize(
    ("label", "prediction", "f1", "matthews"),
    [
        ([0, 1, 1], [0, 1, 1], 1.0, 1.0),
        ([0, 1, 1], [1, 0, 0], 0.0, -1.0),
        ([0, 1, 1], [1, 1, 1], 0.8, 0.0),
        ([0, 1, 1], [0, 0, 0], 0.0, 0.0),
        ([0, 0], [0, 0], 0.0, 0.0),
        ([0, 1, 1, 0], [0, 1, -1, -1], 0.5, 0.0),  # no class counts as the wrong one
    ],
)
def test_limits(label: list[int], prediction: list[int], f1: float, matthews: float) -> None:
    found = scores(BOTH, arrays(label, prediction))
    assert found == pytest.approx({"f1": f1, "matthews": matthews})


def test_only_those_asked_for_are_computed() -> None:
    assert list(scores(["f1"], arrays([0, 1], [0, 1]))) == ["f1"]
    assert scores([], arrays([0, 1], [0, 1])) == {}
    assert [column.name for column in SCORES.values()] == list(SCORES)
