"""A column against a hyper-parameter: only what differs in it alone is one line."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_support import data_of, marks, some_arrays, texts, write_row
from made import EPSILON
from scipy import stats

from marginbench.benchmarks.figures.draw import plot
from marginbench.methods.errors import ParameterError


def a_variant(decay: float, epochs: int = 5) -> dict[str, Any]:
    name = f"toy+training.weight_decay={decay}+training.epochs={epochs}"
    training = {"weight_decay": decay, "epochs": epochs}
    return {"name": name, "title": name, "training": training, "evaluation": {"epsilon": EPSILON}}


@pytest.fixture
def decays(tmp_path: Path) -> Path:
    for i, decay in enumerate((0.01, 0.0, 0.001)):
        for row in ("ce", "mma"):
            write_row(tmp_path, row, 0.5 + 0.1 * i, suite=a_variant(decay), identity={"suite": str(i) * 64})
    return tmp_path


def test_suites_that_differ_in_weight_decay_alone(decays: Path) -> None:
    chart = plot("hyper_parameters", decays)
    values = data_of(chart, "value")
    assert chart.to_dict()["layer"][0]["encoding"]["x"]["sort"] == ["0", "0.001", "0.01"]
    wanted = set(itertools.product(("ce", "mma"), ("test", "train"), ("0", "0.001", "0.01")))
    assert {(one["row"], one["images"], one["value"]) for one in values} == wanted
    assert marks(chart)["line mark"] == 4 and marks(chart)["point"] == 12
    assert marks(chart)["rule mark"] == 6, "of the column itself, not of training images"
    assert "clean accuracy against" in texts(chart)[-2] or "training.weight_decay" in texts(chart)


def test_numbers_are_in_their_order_and_not_in_that_of_their_texts(tmp_path: Path) -> None:
    for i, decay in enumerate((10.0, 9.0, 0.5, 1e-5)):
        write_row(tmp_path, "ce", 0.5, suite=a_variant(decay), identity={"suite": str(i) * 64})
    x = plot("hyper_parameters", tmp_path).to_dict()["layer"][0]["encoding"]["x"]
    assert x["sort"] == ["1e-05", "0.5", "9", "10"]


def test_suites_that_differ_in_more_are_left_out(decays: Path) -> None:
    write_row(decays, "ce", 0.5, suite=a_variant(0.1, epochs=9), identity={"suite": "9" * 64})
    assert {one["value"] for one in data_of(plot("hyper_parameters", decays), "value")} == {"0", "0.001", "0.01"}
    write_row(decays, "ce", 0.5, suite=a_variant(0.01, epochs=9), identity={"suite": "8" * 64})
    with pytest.raises(ParameterError, match=r"training\.epochs, training\.weight_decay"):
        plot("hyper_parameters", decays)
    chart = plot("hyper_parameters", decays, parameter="training.epochs", column="margin_upper_l2")
    assert {one["value"] for one in data_of(chart, "value")} == {"5", "9"}
    assert marks(chart)["line mark"] == 2, "margins of training images are not measured; mma has one value"


def test_a_field_of_a_method_beside_the_baseline(tmp_path: Path) -> None:
    write_row(tmp_path, "ce", 0.5)
    for p in (0.1, 0.3):
        write_row(tmp_path, f"ce_dropout(p={p})", 0.5 + p, identity={"fields": {"p": p, "layers": [1, 2]}})
    chart = plot("hyper_parameters", tmp_path, column="robust_accuracy_l2")
    values = data_of(chart, "value")
    assert {(one["row"], one["value"]) for one in values} == {("ce_dropout", "0.1"), ("ce_dropout", "0.3")}
    assert "ce" in texts(chart) and marks(chart)["rule mark"] == 2 + 1
    for one in (value for value in values if value["images"] == "test"):
        of_seeds = robust(0.5 + float(one["value"]))
        half = float(stats.t.ppf(0.975, 2)) * np.std(of_seeds, ddof=1) / 3**0.5
        ends = [np.mean(of_seeds) - half, np.mean(of_seeds), np.mean(of_seeds) + half]
        assert [one[end] for end in ("low", "mean", "high")] == pytest.approx(ends, abs=1e-4)
    (ruler,) = data_of(chart, "text")
    assert ruler == {"mean": pytest.approx(np.mean(robust(0.5)), abs=1e-4), "text": "ce"}


def robust(strength: float) -> list[float]:
    """Robust accuracy in L2 of each seed."""
    found = [some_arrays(strength, seed) for seed in range(3)]
    return [float(np.mean((own["prediction"] == own["label"]) & (own["upper_l2"] > EPSILON["l2"]))) for own in found]


def test_rows_that_were_tuned_with_another_recipe_differ_in_more(tmp_path: Path) -> None:
    for p in (0.1, 0.3):
        write_row(tmp_path, f"ce_dropout(p={p})", 0.5 + p, identity={"fields": {"p": p}})
    recipe = {"training.learning_rate": 0.02}
    write_row(
        tmp_path, "ce_dropout+tuned", 0.9, identity={"method": "ce_dropout", "fields": {"p": 0.4}, "recipe": recipe}
    )
    assert {one["value"] for one in data_of(plot("hyper_parameters", tmp_path), "value")} == {"0.1", "0.3"}


def test_nothing_varies(board: Path) -> None:
    with pytest.raises(ParameterError, match="run-all --set KEY=VALUE"):
        plot("hyper_parameters", board)
