"""Arrays as users have them: read as what they plainly are, with a line, or refused with the remedy."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_support import Arrays, arrays, augmented_suite, save

from marginbench.benchmarks.data.dataset import Dataset, load_data
from marginbench.benchmarks.data.plain import read_plainly
from marginbench.benchmarks.training.loop import train
from marginbench.benchmarks.training.pixels import pixel_statistics
from marginbench.methods import MarginbenchError, create

COLOUR = arrays(channels=3)
GREY = arrays()
PARTS = ("train", "test")


def both(values: Arrays, letter: str, change: Any) -> Arrays:
    return {key: change(array) if key.startswith(letter) else array for key, array in values.items()}


def images(change: Any, values: Arrays = COLOUR) -> Arrays:
    return both(values, "x", change)


def labels(change: Any) -> Arrays:
    return both(GREY, "y", change)


def with_alpha(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.full_like(x[..., :1], 255)], -1)


FIRST = COLOUR["x_test"].transpose(0, 3, 1, 2)
READ: dict[str, tuple[Arrays, np.ndarray, str]] = {  # what it is, the images of the test split in [0, 1], the line
    "NHWC": (COLOUR, FIRST / 255, ""),
    "NHW": (GREY, GREY["x_test"][:, None] / 255, ""),
    "NHW1": (images(lambda x: x[..., None], GREY), GREY["x_test"][:, None] / 255, ""),
    "N1HW": (images(lambda x: x[:, None], GREY), GREY["x_test"][:, None] / 255, "read as NxCxHxW, 1 x 8 x 8"),
    "NCHW": (images(lambda x: x.transpose(0, 3, 1, 2)), FIRST / 255, "read as NxCxHxW, 3 x 8 x 8"),
    "five bands": (images(lambda x: x[..., [0, 1, 2, 1, 0]]), FIRST[:, [0, 1, 2, 1, 0]] / 255, ""),
    "five bands first": (
        images(lambda x: x[..., [0, 1, 2, 1, 0]].transpose(0, 3, 1, 2)),
        FIRST[:, [0, 1, 2, 1, 0]] / 255,
        "read as NxCxHxW, 5 x 8 x 8",
    ),
    "0 and 1": (images(lambda x: x > 99), FIRST > 99, "1 means white"),
    "0 and 1 as uint8": (images(lambda x: (x > 99).astype(np.uint8)), FIRST > 99, "1 means white"),
    "0 and 1 as int64": (images(lambda x: (x > 99).astype(np.int64)), FIRST > 99, "1 means white"),
    "0 and 1 as float": (images(lambda x: (x > 99).astype(np.float64)), FIRST > 99, ""),
    "int64": (images(lambda x: x.astype(np.int64)), FIRST / 255, "read as 8 bits"),
    "big-endian": (images(lambda x: x.astype(">u2")), FIRST / 255, "read as 8 bits"),
    "whole floats": (images(lambda x: x.astype(np.float32)), FIRST / 255, "read as 8 bits"),
    "dark": (images(lambda x: x // 16), FIRST // 16 / 255, "no value above 15; 255 means white"),
    "dark floats": (
        images(lambda x: np.float32(x // 16 / 255)),
        FIRST // 16 / 255,
        f"no value above {15 / 255:g}; 1 means white",
    ),
    "just not dark": (images(lambda x: (x > 99) * np.uint8(128)), (FIRST > 99) * 128 / 255, ""),
    "just dark": (
        images(lambda x: (x > 99) * np.uint8(127)),
        (FIRST > 99) * 127 / 255,
        "no value above 127; 255 means white",
    ),
    "floats, just not dark": (images(lambda x: (x > 99) * 0.5), (FIRST > 99) * 0.5, ""),
    "dark floats that are exact": (
        images(lambda x: (x > 99) * 0.25),
        (FIRST > 99) * 0.25,
        "no value above 0.25; 1 means",
    ),
    "a little above 1": (
        images(lambda x: np.float32(x / x.max()) * np.float32(1 + 1e-6), COLOUR),
        (np.float32(FIRST / COLOUR["x_test"].max()) * np.float32(1 + 1e-6)).clip(0, 1),
        "by rounding: cut off at 0 and 1",
    ),
    "opaque alpha": (images(with_alpha), FIRST / 255, "dropped as alpha"),
    "opaque alpha of floats": (images(lambda x: np.float32(with_alpha(x) / 255)), FIRST / 255, "dropped as alpha"),
    "near infrared": (
        images(lambda x: x[..., [0, 1, 2, 0]]),
        FIRST[:, [0, 1, 2, 0]] / 255,
        "4 channels: if the last is alpha, leave it out",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_images_are_what_they_plainly_are(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values, wanted, line = READ[name]
    found = read_plainly("mine.npz", values)
    assert found.x_test.dtype in (np.uint8, np.float32) and found.y_test.dtype == np.int64
    assert np.array_equal((found.x_test.astype(np.float32) / found.levels), wanted.astype(np.float32))
    assert found.x_train.shape[1:] == found.x_test.shape[1:]
    assert len(caplog.messages) == bool(line) and all("mine.npz: " in m and line in m for m in caplog.messages)


def one(part: str, change: Any, values: Arrays = COLOUR) -> Arrays:
    return {key: change(array) if key == f"x_{part}" else array for key, array in values.items()}


REFUSED: dict[str, tuple[Arrays, list[str]]] = {
    "either axis": (images(lambda x: x[:, :3]), ["x_train is (40, 3, 8, 3)", "which axis holds the channels"]),
    "no axis": (images(lambda x: np.repeat(x, 3, -1)[..., :8]), ["x_train is (40, 8, 8, 8)", "which axis"]),
    "more than 8 bits": (images(lambda x: x.astype(np.uint16) * 257), ["uint16 from", "to 65278", "float32 in [0, 1]"]),
    "above 1": (images(lambda x: x / x.max() * 1.00001), ["float64 from 0 to 1.00001: give float32 in [0, 1]"]),
    "12 bits": (images(lambda x: x.astype(np.int32) * 16), ["int32 from", "to 4064", "divide by the value"]),
    "17 levels of another type": (images(lambda x: x.astype(np.float64) // 15), ["float64 from", "to 16", "divide"]),
    "normalised": (images(lambda x: (x / 255 - 0.5) / 0.25), ["float64 from -2 to 1.98", "mean and std"]),
    "0 to 255, not whole": (images(lambda x: x * 0.9), ["float64 from", "divide by the value that means white"]),
    "divided twice": (images(lambda x: x / 255 / 255), ["no value above 0.0039", "divided by 255 twice"]),
    "NaN": (one("test", lambda x: np.where(x == x.max(), np.nan, x / 255)), ["x_test", "not finite"]),
    "infinite": (images(lambda x: np.where(x == x.max(), np.inf, x / 255)), ["x_train", "not finite"]),
    "complex": (images(lambda x: x * 1j), ["x_train is complex128"]),
    "text": (images(lambda x: x.astype(str)), ["x_train is <U3"]),
    "flat": (
        images(lambda x: x.reshape(len(x), -1)),
        ["uint8 (40, 192)", "NxHxW", "Nx1xD, as x_train[:, None]"],
    ),
    "two scales": (one("test", lambda x: x / 255), ["x_train (uint8", "x_test (float64, ", "one scale"]),
    "two scales of uint8": (one("train", lambda x: x > 99), ["x_train (bool, 0 to 1)", "one scale"]),
    "two scales of floats": (one("train", lambda x: (x > 99) / 1.0), ["one scale"]),
    "two shapes": (one("test", lambda x: x[:, 1:]), ["(3, 8, 8)", "(3, 7, 8)"]),
    "half labels": (labels(lambda y: y + 0.7), ["y_train holds 0.7", "whole numbers"]),
    "labels that are not finite": (labels(lambda y: np.where(y == 2, np.nan, y)), ["y_train holds nan"]),
    "huge labels": (labels(lambda y: y.astype(np.uint64) + np.uint64(2**63)), ["y_train holds 9.2"]),
    "names": (labels(lambda y: y.astype(str)), ["y_train is <U"]),
    "from 1": (labels(lambda y: y + 1), ["y_train has labels from 1 to 4 and none of class 0", "np.unique"]),
    "with a gap": (labels(lambda y: y + (y > 1)), ["labels from 0 to 4 and none of class 2"]),
    "below 0": (labels(lambda y: y - 1), ["y_train must hold one label >= 0"]),
    "probabilities": (labels(lambda y: np.full((len(y), 4), 0.25)), ["y_train holds 0.25"]),
    "several labels": (labels(lambda y: np.ones((len(y), 4), int)), ["y_train is (40, 4)", "not one-hot"]),
    "an empty row": (labels(lambda y: np.eye(5, 4, dtype=int)[y + 1]), ["not one-hot"]),
    "too few": (labels(lambda y: y[1:]), ["y_train must hold one label"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_is_refused_in_one_line_for_each_array(name: str) -> None:
    values, words = REFUSED[name]
    with pytest.raises(MarginbenchError) as caught:
        read_plainly("mine.npz", values)
    text = str(caught.value)
    assert text.startswith("mine.npz: ") and text.count("\n- ") == text.count("\n") <= 2
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda y: y.astype(np.float32), ""),
        (lambda y: y.astype(np.uint8)[:, None], ""),
        (lambda y: y[None], ""),
        (lambda y: np.eye(4)[y], "rows of 4 are read as one-hot"),
        (lambda y: np.eye(4, dtype=bool)[y], "one-hot"),
    ],
)
def test_labels_are_what_they_plainly_are(change: Any, line: str, caplog: pytest.LogCaptureFixture) -> None:
    found = read_plainly("mine.npz", labels(change))
    assert found.y_train.tolist() == GREY["y_train"].tolist() and found.y_test.tolist() == GREY["y_test"].tolist()
    assert found.y_test.dtype == np.int64 and len(caplog.messages) == bool(line) and line in "".join(caplog.messages)


def test_classes_without_a_test_image_are_told(caplog: pytest.LogCaptureFixture) -> None:
    values = {**GREY, "y_test": np.where(GREY["y_test"] == 2, 1, GREY["y_test"])}
    assert read_plainly("mine.npz", values).y_test.tolist() == values["y_test"].tolist()
    assert caplog.messages == ["mine.npz: y_test: no image of 1 of the 4 classes, such as 2"]


def test_one_line_speaks_of_both_parts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_plainly("mine.npz", READ["NCHW"][0])
    assert caplog.messages == ["mine.npz: x_train and x_test: read as NxCxHxW, 3 x 8 x 8"]


def floats(sets: Path, count: int = 60) -> tuple[Dataset, Arrays]:
    """Images with more than 8 bits, as a user stores them."""
    rng = np.random.default_rng(5)
    values = arrays(train=count, test=24, channels=3)
    values |= {f"x_{part}": rng.random(values[f"x_{part}"].shape, np.float32) for part in PARTS}
    save(sets / "fine.npz", values)
    return load_data("fine", 20, Path(), sets), values


def test_float_images_are_kept_to_the_bit(sets: Path) -> None:
    data, values = floats(sets)
    assert data.test.x.dtype == torch.float32
    found = data.test.images(slice(None)).numpy()
    assert found.tobytes() == np.ascontiguousarray(values["x_test"].transpose(0, 3, 1, 2)).tobytes()
    values["x_train"][0, 0, 0, 0] = np.nextafter(values["x_train"][0, 0, 0, 0], np.float32(0))
    save(sets / "fine.npz", values)
    assert load_data("fine", 20, Path(), sets).fingerprint != data.fingerprint, "one bit is other data"


def test_doubles_are_rounded_with_a_line(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, values = floats(sets)
    fine = images(lambda x: x.astype(np.float64), values)
    assert read_plainly("mine", fine).x_test.dtype == np.float32 and not caplog.messages, "nothing is lost"
    read_plainly("mine", images(lambda x: x * (1 - 1e-12), fine))
    assert caplog.messages == ["mine: x_train and x_test: float64 is rounded to float32"]


def test_equal_values_on_another_scale_are_other_data(sets: Path) -> None:
    """The same bytes, once black and white, once on 255 levels."""
    prints = set()
    for extra in (1, 255):
        values = images(lambda x: (x > 99).astype(np.uint8))
        for part in PARTS:
            values[f"x_{part}"][0] = extra
        save(sets / "mine.npz", values)
        prints.add(load_data("mine", 10, Path(), sets).fingerprint)
    binary = load_data("mine", 10, Path(), sets)
    assert len(prints) == 2 and binary.test.levels == 255


def test_statistics_of_float_images_are_those_of_numpy(sets: Path) -> None:
    data, _ = floats(sets)
    x = data.train.x.double().numpy()
    mean, std = pixel_statistics(data.train)
    assert mean.tolist() == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-7)
    assert std.tolist() == pytest.approx(x.std((0, 2, 3), ddof=1).tolist(), rel=1e-6)


def test_networks_train_on_float_images_with_every_transform(sets: Path) -> None:
    data, _ = floats(sets)
    result = train(create("ce"), augmented_suite(epochs=1), data, 0)
    assert result.net(data.test.images(slice(None))).isfinite().all()
