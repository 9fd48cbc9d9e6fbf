"""Figures of kept networks: feature maps and adversarial examples."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from figure_support import data_of, marks, texts
from made import a_record
from PIL import Image

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.examples import examples, png, typical
from marginbench.benchmarks.figures.feature_map import embed
from marginbench.benchmarks.figures.kept import Kept
from marginbench.benchmarks.figures.rows import Rows, rows_of
from marginbench.benchmarks.records.record import SuiteFacts, write_record
from marginbench.benchmarks.runs.run_all import run_all
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.load import load_network, training_paths
from marginbench.methods import predicted_class
from marginbench.methods.errors import MarginbenchError, ParameterError

POINTS = 30


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two networks, and records of an evaluation whose distances are invented."""
    folder = tmp_path_factory.mktemp("kept")
    settings = {"evaluation.points": POINTS, "training.epochs": 8}
    run_all(suite="smoke", methods=["ce", "mixup"], set=settings, seeds=1, out=folder, only="train", progress=False)
    suite = derive(load_suite("smoke"), settings)
    data = suite.load_data()
    test = data.test.rows(data.test.sample(POINTS))
    facts = SuiteFacts.of(suite.model_dump(mode="json", exclude={"methods", "seeds"}))
    for path in training_paths(folder):
        net, training = load_network(path)
        with torch.no_grad():
            prediction = predicted_class(net(test.images(slice(None)))).numpy()
        distance = np.where(prediction == test.y.numpy(), 0.1 + np.arange(POINTS) / 100, 0).astype(np.float32)
        arrays = {f"{end}_{norm}": distance for end in ("upper", "lower") for norm in ("l2", "linf")}
        index = data.test.sample(POINTS).numpy()
        identity = {"suite": suite.fingerprint, "data": data.fingerprint, "training": training.id, "fields": {}}
        record = a_record(training.method, identity=identity, suite=facts)
        arrays |= {"index": index, "label": test.y.numpy(), "prediction": prediction}
        write_record(folder / facts.name / "runs", record, arrays)
    return folder


@pytest.fixture(scope="module")
def rows(kept: Path) -> Rows:
    return rows_of(kept)


def test_a_map_for_each_row_with_its_margins(rows: Rows) -> None:
    chart = plot("feature_map", rows, picked=["ce", "mixup"])
    maps = {one["row"]: one for one in data_of(chart, "margin")}
    assert set(maps) == {"ce", "mixup"}
    for name, own in maps.items():
        arrays = rows.arrays(rows.runs[name][0])
        assert own["class"] == list(arrays["label"])
        assert own["margin"] == pytest.approx(arrays["upper_l2"], rel=1e-3)
        assert own["wrong"] == list((arrays["label"] != arrays["prediction"]).astype(int))
    assert max(maps["ce"]["x"]) <= 1 < min(maps["mixup"]["x"]), "side by side"
    assert marks(chart)["point"] + marks(chart)["cross"] == 2 * POINTS
    assert {"ce", "mixup"} <= set(texts(chart))


def test_separate_clusters_stay_separate_in_a_map() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 16)) + 50 * np.repeat(np.eye(3, 16), 20, axis=0)
    xy = embed(features)
    assert xy.min() == 0 and xy.max() == 1 and np.array_equal(xy, embed(features))
    middles = np.stack([xy[20 * i : 20 * i + 20].mean(0) for i in range(3)])
    nearest = np.linalg.norm(xy[:, None] - middles, axis=2).argmin(1)
    assert np.array_equal(nearest, np.repeat(np.arange(3), 20))


def test_features_that_are_all_the_same_have_a_map() -> None:
    assert np.array_equal(embed(np.ones((12, 4))), np.full((12, 2), 0.5))
    assert np.array_equal(embed(np.arange(12.0)[:, None]), np.full((12, 2), 0.5))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_examples_are_adversarial_at_their_distance(rows: Rows, norm: str) -> None:
    kept = Kept(rows)
    record = rows.runs["ce"][0]
    found = examples(kept, record, norm)  # type: ignore[arg-type]
    arrays = rows.arrays(record)
    assert [one.place for one in found] == typical(kept, [record], norm)  # type: ignore[arg-type]
    assert len(found) == 4
    for one in found:
        assert one.label == arrays["label"][one.place] == arrays["prediction"][one.place] != one.predicted
        before, after, change = (pixels(picture) for picture in (one.original, one.adversarial, one.difference))
        delta = after - before
        length = np.linalg.norm(delta[::8, ::8]) if norm == "l2" else np.abs(delta).max()
        assert length == pytest.approx(one.distance, abs=0.02)  # of 8 bits
        assert np.abs(change - 0.5).max() == pytest.approx(0.5, abs=0.03)
        assert change - 0.5 == pytest.approx(one.magnified * delta, abs=0.6 / 255 * (2 + 2 * one.magnified))


def test_the_figure_has_three_pictures_for_the_first_row(rows: Rows) -> None:
    chart = plot("adversarial_examples", rows, picked=["ce", "mixup"], points=2)
    assert marks(chart)["image mark"] == 2 * 5
    assert {"original", "ce", "mixup", "difference"} <= set(texts(chart))
    with pytest.raises(ParameterError, match="1 to 12"):
        plot("adversarial_examples", rows, points=0)


def test_pictures_are_enlarged_by_whole_numbers() -> None:
    image = np.linspace(0, 1, 3 * 5 * 7).reshape(3, 5, 7)
    shown = pixels(png(image))
    assert shown.shape == (50, 70, 3)
    assert shown[::10, ::10].transpose(2, 0, 1) == pytest.approx(image, abs=0.51 / 255)
    assert pixels(png(image[:1])).ndim == 2 and pixels(png(image[:2])).ndim == 2


@pytest.mark.parametrize("name", ["feature_map", "adversarial_examples"])
def test_a_missing_network_is_an_error_that_says_how_to_get_it(name: str, board: Path) -> None:
    command = r"marginbench run-all --suite toy --methods ce --seeds 1 --out \S+ --only train"
    with pytest.raises(
        MarginbenchError, match=rf"the network of ce, seed 0, is not in \S+: `{command}` trains it again"
    ):
        plot(name, board)


def test_the_command_trains_the_suite_of_the_record(rows: Rows, tmp_path: Path) -> None:
    elsewhere = {record: tmp_path / "out" / "suite" / "runs" / path.name for record, path in rows.paths.items()}
    moved = Rows(rows.suite, rows.fingerprint, rows.runs, elsewhere)
    settings = "--set evaluation.points=30 --set training.epochs=8"
    with pytest.raises(
        MarginbenchError, match=f"--suite smoke {settings} --methods mixup --seeds 1 --out {tmp_path}/out"
    ):
        Kept(moved).net(rows.runs["mixup"][0])


def pixels(picture: str) -> np.ndarray:
    """A data URI in [0, 1]."""
    content = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content))).astype(float) / 255
