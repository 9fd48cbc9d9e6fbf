"""How data are split, where they are looked for, and where they stay."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_support import arrays, rows, save, save_images

from marginbench.benchmarks.data.dataset import Split, data_folder, load_data
from marginbench.methods import MarginbenchError


def test_splits_are_disjoint_and_the_test_set_is_not_touched(sets: Path) -> None:
    values = arrays()
    save(sets / "mine.npz", values)
    for options in ({}, {"train_size": 20}, {"imbalance": 4.0}, {"train_size": 20, "imbalance": 4.0}):
        data = load_data("mine", 10, Path(), sets, **options)  # type: ignore[arg-type]
        assert len(rows(data.train) | rows(data.validation)) == len(data.train) + 10
        assert not (rows(data.train) | rows(data.validation)) & rows(data.test)
        assert np.array_equal(data.test.x[:, 0].numpy(), values["x_test"]) and len(data.test.y) == 12
        assert data.num_classes == 4
        whole = load_data("mine", 10, Path(), sets)
        assert torch.equal(data.validation.x, whole.validation.x)
        assert rows(data.train) <= rows(whole.train)
        assert (data.fingerprint == whole.fingerprint) == (not options)


@pytest.mark.parametrize(
    ("validation", "options", "remedy"),
    [
        (1, {}, "add images of that class"),
        (2, {}, "lower validation, or add images of that class"),
        (1, {"train_size": 2}, "raise train_size, or add images of that class"),
        (1, {"imbalance": 99.0}, "lower imbalance, or add images of that class"),
    ],
)
def test_a_class_without_training_images_is_told_with_what_would_give_it_some(
    sets: Path, validation: int, options: dict[str, Any], remedy: str
) -> None:
    save(sets / "mine.npz", arrays(train=4))
    with pytest.raises(MarginbenchError, match=f"no training image of class . is left: {remedy}$"):
        load_data("mine", validation, Path(), sets, **options)


def test_held_out_images_do_not_shorten_the_tail(sets: Path) -> None:
    """Of 100 images of each class 20 are held out, of each a few: the last classes keep the numbers of all."""
    save(sets / "mine.npz", arrays(train=400))
    data = load_data("mine", 80, Path(), sets, imbalance=8.0)
    held_out = data.validation.y.bincount().tolist()
    assert min(held_out) > 5
    assert data.train.y.bincount().tolist() == [100 - held_out[0], 50, 25, 12]
    few = load_data("mine", 80, Path(), sets, imbalance=8.0, train_size=200)
    left = load_data("mine", 80, Path(), sets, train_size=200).train.y.bincount()
    assert few.train.y.bincount()[0] == left[0] and few.train.y.bincount()[3] == left[0] // 8


def test_test_images_that_are_trained_on_are_told(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = arrays()
    save(sets / "mine.npz", values)
    load_data("mine", 10, Path(), sets)
    save_images(tmp_path / "flowers", {"rose": 5, "tulip": 5})
    load_data("flowers", 4, tmp_path, sets, size=6)
    assert not caplog.messages
    values["x_test"][[3, 5]] = values["x_train"][[0, 39]]
    save(sets / "mine.npz", values)
    load_data("mine", 10, Path(), sets)
    shutil.copy(tmp_path / "flowers" / "train" / "rose" / "1.png", tmp_path / "flowers" / "val" / "rose" / "4.png")
    load_data("flowers", 4, tmp_path, sets, size=6)
    assert caplog.messages == [
        "data 'mine': 2 of 12 test images are training images too",
        "data 'flowers': 1 of 10 test images are training images too",
    ]


def test_the_order_is_that_of_the_hashes(sets: Path) -> None:
    values = arrays()
    save(sets / "mine.npz", values)
    order = sorted(range(40), key=lambda i: hashlib.sha256(f"validation:{i}".encode()).digest())
    data = load_data("mine", 10, Path(), sets, train_size=25)
    assert np.array_equal(data.validation.x[:, 0].numpy(), values["x_train"][order[:10]])
    assert np.array_equal(data.train.x[:, 0].numpy(), values["x_train"][order[10:35]])
    assert data.train.y.tolist() == values["y_train"][order[10:35]].tolist()


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_folder("a") == Path("a") and data_folder() == tmp_path / "sets"
    monkeypatch.setenv("MARGINBENCH_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert data_folder() == Path("/caches/marginbench")
    monkeypatch.setenv("XDG_CACHE_HOME", "not absolute")
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_folder() == Path("/home/someone/.cache/marginbench")
    assert data_folder("~/x") == Path("/home/someone/x")


def test_images_that_stay_on_the_host_follow_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is torch's `meta`, which has shapes and no memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64, device="meta"), 255)
    for index in (torch.tensor([3, 1]), slice(2)):
        assert split.images(index).shape == (2, 1, 2, 2) and split.images(index).device == split.device
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (39, 100))
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: moved.append(self.dtype) or self)
    Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5), 255).to(torch.device("cuda"))
    assert moved == [torch.float32], "20 bytes are more than half of 39"
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (40, 100))
    Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5), 255).to(torch.device("cuda"))
    assert set(moved[1:]) == {torch.uint8, torch.float32}
