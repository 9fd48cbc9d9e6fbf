"""F1 and Matthews correlation: against their formulas and a bootstrap over points, and at limits."""

import math

import numpy as np
import pytest

from marginbench.benchmarks.records.scores import _FORMULAS, SCORES, pseudo_values, scores

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


def judged(stream: np.random.Generator, label: np.ndarray, right: float) -> np.ndarray:
    return np.where(stream.random(len(label)) < right, label, 1 - label)


@pytest.mark.parametrize("name", BOTH)
def test_pseudo_values_are_the_score_with_and_without_each_point(name: str) -> None:
    label, prediction = [0, 1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 1, 0, 1]
    found = pseudo_values(name, arrays(label, prediction))
    for i, value in enumerate(found):
        without = by_hand(label[:i] + label[i + 1 :], prediction[:i] + prediction[i + 1 :])[name]
        assert value == pytest.approx(7 * by_hand(label, prediction)[name] - 6 * without)


def test_pseudo_values_of_accuracy_say_which_points_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_FORMULAS, "accuracy", lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn))
    stream = np.random.default_rng(0)
    label = stream.integers(0, 2, 50)
    prediction = judged(stream, label, 0.7)
    found = pseudo_values("accuracy", {"label": label, "prediction": prediction})
    np.testing.assert_allclose(found, label == prediction, atol=1e-12)


@pytest.mark.parametrize("name", BOTH)
def test_pseudo_values_tell_the_variance_of_a_paired_difference_over_points(name: str) -> None:
    """Of two classifiers that err on the same hard points, against 2000 bootstrap samples of the points."""
    stream = np.random.default_rng(1)
    label = (stream.random(500) < 0.3).astype(int)
    first = judged(stream, label, 0.8)
    second = np.where(stream.random(500) < 0.15, judged(stream, label, 0.6), first)
    a, b = (pseudo_values(name, {"label": label, "prediction": one}) for one in (first, second))
    drawn = []
    for chosen in stream.integers(0, 500, (2000, 500)):
        both = [scores([name], {"label": label[chosen], "prediction": one[chosen]})[name] for one in (first, second)]
        drawn.append(both[0] - both[1])
    assert np.std(a - b, ddof=1) / math.sqrt(500) == pytest.approx(np.std(drawn), rel=0.08)
    alone = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 500)
    assert np.std(drawn) < 0.8 * alone, "or the test would not see whether pairs are kept"


@pytest.mark.parametrize("name", BOTH)
def test_a_score_that_no_point_changes_has_no_variance(name: str) -> None:
    found = pseudo_values(name, arrays([0, 1, 1, 0], [0, 0, 0, 0]))
    assert found.tolist() == [0.0] * 4


def test_only_those_asked_for_are_computed() -> None:
    assert list(scores(["f1"], arrays([0, 1], [0, 1]))) == ["f1"]
    assert scores([], arrays([0, 1], [0, 1])) == {}
    assert [column.name for column in SCORES.values()] == list(SCORES)
