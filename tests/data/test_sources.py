"""Sets of torchvision and .npz files: found, downloaded, or explained."""

import threading
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from data_support import Arrays, arrays, save, save_idx

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.runs.console import shown
from marginbench.methods import MarginbenchError


def test_an_npz_of_the_name_comes_before_torchvisions_files(sets: Path) -> None:
    """And both give the same data."""
    values = arrays(size=28)
    save_idx(sets / "MNIST" / "raw", values)
    data = load_data("mnist", 10, Path(), sets)
    assert data.shape == (1, 28, 28) and len(data.train) == 30
    save(sets / "mnist.npz", values)
    assert load_data("mnist", 10, Path(), sets).fingerprint == data.fingerprint
    values["x_train"][0, 3, 3] += 1
    save(sets / "mnist.npz", values)
    assert load_data("mnist", 10, Path(), sets).fingerprint != data.fingerprint
    for name, folder in (("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")):
        save_idx(sets / folder / "raw", values)
        assert load_data(name, 10, Path(), sets).shape == (1, 28, 28)


def test_colour_sets_of_torchvision(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR as N x H x W x C with a list of labels, SVHN as N x C x H x W: stand-ins, since real files are checked."""
    values = arrays(size=32, channels=3)

    class Cifar:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            part = "train" if train else "test"
            self.data, self.targets = values[f"x_{part}"], values[f"y_{part}"].tolist()

    class Svhn:
        def __init__(self, root: Path, split: str, download: bool) -> None:
            self.data, self.labels = values[f"x_{split}"].transpose(0, 3, 1, 2), values[f"y_{split}"]

    for name, stand_in in (("CIFAR10", Cifar), ("CIFAR100", Cifar), ("SVHN", Svhn)):
        monkeypatch.setattr(f"torchvision.datasets.{name}", stand_in)
    prints = {load_data(name, 10, Path(), sets).fingerprint for name in ("cifar10", "cifar100", "svhn")}
    save(sets / "same.npz", values)
    assert prints == {load_data("same", 10, Path(), sets).fingerprint}


def test_missing_sets_are_downloaded_without_noise(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is a stand-in for what torchvision calls for each archive."""
    source = sets.parent / "source"
    save_idx(source, arrays(size=28))

    def deliver(url: str, download_root: str, filename: str, md5: str) -> None:
        print("a bar")
        name = filename.removesuffix(".gz")
        Path(download_root, name).write_bytes((source / name).read_bytes())

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", deliver)
    assert len(load_data("mnist", 10, Path(), sets).train) == 30
    assert (sets / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "svhn", "cifar10", "cifar100"])
def test_a_download_that_fails_says_what_was_looked_for(name: str, sets: Path) -> None:
    with pytest.raises(MarginbenchError) as caught:
        load_data(name, 10, Path(), sets)
    text = str(caught.value)
    for word in (f"{sets / name}.npz", "x_train", f"torchvision's {name.upper()[:4]}", "no network", "data_dir"):
        assert word.upper() in text.upper(), word
    assert "\n" not in text


def test_a_slow_download_is_announced(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Now(threading.Timer):
        def start(self) -> None:
            self.function(*self.args, **self.kwargs)

    monkeypatch.setattr("threading.Timer", Now)
    with pytest.raises(MarginbenchError), shown():
        load_data("kmnist", 10, Path(), sets)
    assert capsys.readouterr().err == f"downloading kmnist into {sets}\n"


def _with(**changes: np.ndarray) -> Arrays:
    return {**arrays(), **changes}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"x_train": np.zeros((2, 8, 8), np.uint8)}, ["no array 'y_train', 'x_test', 'y_test'"]),
        (_with(x_test=np.zeros((0, 8, 8), np.uint8), y_test=np.zeros(0)), ["x_test is (0, 8, 8): it holds no image"]),
        (_with(x_test=np.zeros((12, 9, 9), np.uint8)), ["(1, 8, 8)", "(1, 9, 9)"]),
        (_with(y_train=np.zeros(3)), ["y_train must hold one label"]),
        (_with(y_test=np.full(12, 4)), ["y_test has the label 4"]),
        (_with(x_train=np.full((40, 64), 200, np.uint8)), ["x_train is uint8 (40, 64)", "NxHxW"]),
        (_with(y_train=np.array([{}] * 40)), ["y_train cannot be read", "Object arrays"]),
        (
            _with(x_train=np.zeros((0, 8, 8), np.uint8), y_train=np.zeros(0)),
            ["x_train is (0, 8, 8): it holds no image"],
        ),
    ],
)
def test_a_wrong_npz_is_explained(sets: Path, values: Arrays, words: list[str]) -> None:
    save(sets / "mine.npz", values)
    with pytest.raises(MarginbenchError) as caught:
        load_data("mine", 10, Path(), sets)
    assert all(word in str(caught.value) for word in ["mine.npz", *words]) and "\n" not in str(caught.value)


def test_all_that_is_wrong_with_an_npz_is_told_at_once(sets: Path) -> None:
    pixels = np.full((12, 8, 8), np.nan)
    save(
        sets / "mine.npz", _with(x_train=np.zeros((40, 64)), y_train=np.full(40, 0.5), x_test=pixels, y_test=np.ones(3))
    )
    with pytest.raises(MarginbenchError) as caught:
        load_data("mine", 10, Path(), sets)
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("mine.npz: 4 problems:")
    wanted = ("x_train is float64 (40, 64)", "y_train holds 0.5", "x_test holds values", "y_test must hold one label")
    assert all(line.startswith(f"- {words}") for line, words in zip(lines, wanted, strict=True))


def test_one_class_alone_has_no_margin(sets: Path) -> None:
    save(sets / "mine.npz", _with(y_train=np.zeros(40), y_test=np.zeros(12)))
    with pytest.raises(MarginbenchError, match=r"^data 'mine': has one class alone: a margin lies between"):
        load_data("mine", 10, Path(), sets)


@pytest.mark.parametrize("content", [b"", b"no npz at all", b"PK\x03\x04 cut off", b"\x1f\x8b of gzip"])
def test_a_damaged_npz_is_explained(sets: Path, content: bytes) -> None:
    sets.mkdir()
    (sets / "mine.npz").write_bytes(content)
    with pytest.raises(MarginbenchError, match=r"mine\.npz: not a readable \.npz file"):
        load_data("mine", 10, Path(), sets)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the file itself: run `git lfs"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"PK\x03\x04 cut off", "is cut off: copy or download it again"),
        (b"", "is empty: copy or download it again"),
    ],
)
def test_what_lies_in_the_place_of_an_npz_is_named(sets: Path, content: bytes, problem: str) -> None:
    sets.mkdir()
    (sets / "mine.npz").write_bytes(content)
    with pytest.raises(MarginbenchError, match=rf"mine\.npz: not a readable \.npz file: it {problem}"):
        load_data("mine", 10, Path(), sets)


def test_damaged_files_of_torchvision_are_explained(sets: Path) -> None:
    save_idx(sets / "MNIST" / "raw", arrays(size=28))
    (sets / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03")
    with pytest.raises(MarginbenchError, match=r"'mnist': torchvision cannot read its files in .*; delete them"):
        load_data("mnist", 10, Path(), sets)


def test_no_test_reaches_the_network() -> None:
    import urllib.request

    with pytest.raises(URLError, match="no network in tests"):
        urllib.request.urlopen("http://localhost")
