"""Data sets: where they are looked for, how they are split, and what is said when they are missing."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from support import Run

from marginbench.benchmarks.data.arrays import long_tail, take
from marginbench.benchmarks.data.dataset import Split, data_folder, load_data
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError

Arrays = dict[str, np.ndarray]


def arrays(train: int = 40, test: int = 12, size: int = 8, classes: int = 4, channels: int = 1) -> Arrays:
    """Images that are all different; the first pixel of a test image is 255, of a training image less."""
    rng = np.random.default_rng(0)
    tail = () if channels == 1 else (channels,)
    found: Arrays = {}
    for part, count in (("train", train), ("test", test)):
        x = rng.integers(0, 255, (count, size, size, *tail), dtype=np.uint8)
        x[:, 0, 0] = 255 if part == "test" else 7
        found |= {f"x_{part}": x, f"y_{part}": np.arange(count) % classes}
    return found


def save(path: Path, values: Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **values)  # type: ignore[arg-type]
    return path


def save_idx(folder: Path, values: Arrays) -> None:
    """As torchvision's MNIST expects them, unpacked."""
    folder.mkdir(parents=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            array = values[f"{letter}_{part}"].astype(np.uint8)
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(head + array.tobytes())


def save_images(place: Path, counts: dict[str, int], size: tuple[int, int] = (12, 9), test: str = "val") -> None:
    """PNG files in class folders; width and height differ."""
    rng = np.random.default_rng(1)
    for part in ("train", test):
        for name, count in counts.items():
            folder = place / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """The data folder of the tests, empty."""
    return tmp_path / "sets"


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.x}


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


def test_the_order_is_that_of_the_hashes(sets: Path) -> None:
    values = arrays()
    save(sets / "mine.npz", values)
    order = sorted(range(40), key=lambda i: hashlib.sha256(f"validation:{i}".encode()).digest())
    data = load_data("mine", 10, Path(), sets, train_size=25)
    assert np.array_equal(data.validation.x[:, 0].numpy(), values["x_train"][order[:10]])
    assert np.array_equal(data.train.x[:, 0].numpy(), values["x_train"][order[10:35]])
    assert data.train.y.tolist() == values["y_train"][order[10:35]].tolist()


def test_the_long_tail_is_that_of_the_ldam_paper() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    kept = long_tail(labels, 100)
    assert np.bincount(labels[kept]).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert (np.diff(kept) > 0).all()
    for c in range(10):  # the first of each class
        wanted = np.flatnonzero(labels == c)[: (labels[kept] == c).sum()]
        assert np.array_equal(kept[labels[kept] == c], wanted)
    assert np.array_equal(long_tail(labels, 1), np.arange(50_000))
    uneven = np.repeat([0, 1, 2], [90, 300, 9])
    assert np.bincount(uneven[long_tail(uneven, 100)]).tolist() == [90, 9]
    assert np.bincount(uneven[long_tail(uneven, 10)]).tolist() == [90, 28, 9]


def test_neighbours_are_not_copied() -> None:
    array = np.arange(20).reshape(10, 2)
    assert np.shares_memory(take(array, np.arange(3, 7)), array) and take(array, np.arange(3, 7))[0, 0] == 6
    assert take(array, np.array([1, 4, 2]))[:, 0].tolist() == [2, 8, 4]
    assert take(array, np.array([], dtype=np.int64)).shape == (0, 2)


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


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_folder("a") == Path("a") and data_folder() == tmp_path / "sets"
    monkeypatch.setenv("MARGINBENCH_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert data_folder() == Path("/caches/marginbench")
    monkeypatch.setenv("XDG_CACHE_HOME", "not absolute")
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_folder() == Path("/home/someone/.cache/marginbench")
    assert data_folder("~/x") == Path("/home/someone/x")


def test_an_image_folder_is_decoded_once(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "flowers"
    save_images(place, {"rose": 9, "tulip": 5})
    data = load_data("flowers", 4, tmp_path, sets, size=6)
    assert data.shape == (3, 6, 6) and data.num_classes == 2
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 4, 14)
    assert sorted(data.test.y.tolist()) == [0] * 9 + [1] * 5 != data.test.y.tolist()
    wanted = set()
    for path in (place / "train").rglob("*.png"):
        image = Image.open(path).resize((6, 6), Image.Resampling.BILINEAR, box=(1.5, 0, 10.5, 9))
        wanted.add(np.asarray(image).transpose(2, 0, 1).tobytes())
    assert rows(data.train) | rows(data.validation) == wanted
    (cache,) = sets.iterdir()
    assert cache.name.startswith("flowers-6-")

    def stop(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("marginbench.benchmarks.data.folders._read_image", stop)
        again = load_data("flowers", 4, tmp_path, sets, size=6)
        assert again.fingerprint == data.fingerprint and torch.equal(again.train.x, data.train.x)
        fewer = load_data("flowers", 4, tmp_path, sets, size=6, train_size=7)
        assert torch.equal(fewer.train.x, data.train.x[:7]) and fewer.fingerprint != data.fingerprint
    assert len(list(sets.iterdir())) == 1

    pixels = np.asarray(Image.open(place / "train" / "rose" / "0.png")).copy()
    Image.fromarray(255 - pixels).save(place / "train" / "rose" / "0.png")
    os.utime(place / "train" / "rose" / "0.png", ns=(1, 1))
    assert load_data("flowers", 4, tmp_path, sets, size=6).fingerprint != data.fingerprint
    assert not [path for path in sets.iterdir() if path.name.startswith(".")]


def test_imagenet_and_other_folders_are_found_in_the_data_folder(sets: Path, tmp_path: Path) -> None:
    save_images(sets / "imagenet", {"n01": 4, "n02": 4})
    data = load_data("imagenet", 2, tmp_path, sets)
    assert data.shape == (3, 224, 224)
    assert {path.name.split("-")[0] for path in sets.iterdir()} == {"imagenet"}
    save_images(tmp_path / "own", {"a": 3}, test="test")
    assert len(load_data(str(tmp_path / "own"), 1, Path(), sets, size=4).test) == 3


def _no_test(place: Path) -> None:
    for path in (place / "val").rglob("*.png"):
        path.unlink()


def _other_class(place: Path) -> None:
    (place / "val" / "rose").rename(place / "val" / "lily")


def _broken_image(place: Path) -> None:
    (place / "train" / "rose" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_test, ["flowers", "train and test (or val)"]),
        (_other_class, ["flowers", "'lily'", "one of train and val only"]),
        (_broken_image, ["rose/0.png", "not a readable image"]),
    ],
)
def test_a_wrong_image_folder_is_explained(
    sets: Path, tmp_path: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    save_images(tmp_path / "flowers", {"rose": 3, "tulip": 3})
    spoil(tmp_path / "flowers")
    with pytest.raises(MarginbenchError) as caught:
        load_data("flowers", 2, tmp_path, sets, size=4)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not sets.is_dir() or not list(sets.iterdir()), "half a cache is left"


def test_a_cache_that_does_not_fit_or_is_damaged(sets: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "flowers", {"rose": 3, "tulip": 3})
    with pytest.raises(MarginbenchError, match=r"need .* GB, .* GB are free; choose a smaller data.size"):
        load_data("flowers", 2, tmp_path, sets, size=10_000_000)
    load_data("flowers", 2, tmp_path, sets, size=4)
    (cache,) = sets.iterdir()
    (cache / "x_train.npy").write_bytes(b"")
    with pytest.raises(MarginbenchError, match=r"not a readable cache of .*; delete it"):
        load_data("flowers", 2, tmp_path, sets, size=4)
    (tmp_path / "file").touch()
    with pytest.raises(MarginbenchError, match=r"data_dir=.*choose another folder"):
        load_data("flowers", 2, tmp_path, tmp_path / "file" / "sets", size=4)


def _with(**changes: np.ndarray) -> Arrays:
    return {**arrays(), **changes}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"x_train": np.zeros((2, 8, 8), np.uint8)}, ["no array 'y_train'"]),
        (_with(x_train=np.zeros((40, 8, 8))), ["x_train is float64 (40, 8, 8)", "uint8"]),
        (_with(x_test=np.zeros((0, 8, 8), np.uint8)), ["x_test is uint8 (0, 8, 8)"]),
        (_with(x_test=np.zeros((12, 9, 9), np.uint8)), ["(1, 8, 8)", "(1, 9, 9)"]),
        (_with(y_train=np.zeros(3)), ["y_train must hold one label"]),
        (_with(y_test=np.full(12, 4)), ["y_test has the label 4"]),
        (_with(y_train=np.array([{}] * 40)), ["not a readable .npz file"]),
    ],
)
def test_a_wrong_npz_is_explained(sets: Path, values: Arrays, words: list[str]) -> None:
    save(sets / "mine.npz", values)
    with pytest.raises(MarginbenchError) as caught:
        load_data("mine", 10, Path(), sets)
    assert all(word in str(caught.value) for word in ["mine.npz", *words]) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no npz at all", b"PK\x03\x04 cut off", b"\x1f\x8b of gzip"])
def test_a_damaged_npz_is_explained(sets: Path, content: bytes) -> None:
    sets.mkdir()
    (sets / "mine.npz").write_bytes(content)
    with pytest.raises(MarginbenchError, match=r"mine\.npz: not a readable \.npz file"):
        load_data("mine", 10, Path(), sets)


def test_damaged_files_of_torchvision_are_explained(sets: Path) -> None:
    save_idx(sets / "MNIST" / "raw", arrays(size=28))
    (sets / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03")
    with pytest.raises(MarginbenchError, match=r"'mnist': torchvision cannot read its files in .*; delete them"):
        load_data("mnist", 10, Path(), sets)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ('name = "mnis"', ["data.name 'mnis'", "mnis.npz", "mnis/train", "did you mean 'mnist'"]),
        ('name = "imagenet"', ["'imagenet'", "imagenet.npz", "imagenet/train", "image-net.org", "data_dir"]),
        ('name = "cifar10"', ["'cifar10'", "cifar10.npz", "no network", "MARGINBENCH_DATA"]),
        ('name = "mine.npz"', ["mine.npz: no such data file", "sets/mine.npz"]),
        ('name = "digits"\ntrain_size = 1238', ["data.train_size=1238", "1237"]),
        ('name = "digits"\ntrain_size = 0', ["data.train_size=0"]),
        ('name = "digits"\ntrain_size = 5', ["no training image of class"]),
        ('name = "digits"\nimbalance = 0.5', ["data.imbalance=0.5"]),
        ('name = "digits"\nimbalance = 1e4', ["no training image of class"]),
        ('name = "digits"\nsize = 8', ["data.size=8", "image folders"]),
        ('name = "digits"\nsice = 8', ["data.sice", "did you mean 'size'"]),
    ],
)
def test_a_wrong_key_gives_one_line(run: Run, tiny: Path, new: str, words: list[str]) -> None:
    tiny.write_text(tiny.read_text().replace('name = "digits"', new))
    code, out, err = run("run-all", "--suite", tiny, "--out", tiny.parent / "out")
    assert code == 2 and out == "" and err.count("error: ") == 1 == len(err.rpartition("error: ")[2].splitlines())
    for word in words:
        assert word in err


@pytest.mark.parametrize(("option", "jobs"), [("--data-dir", "2"), ("--data-dir", "1"), ("MARGINBENCH_DATA", "1")])
def test_the_folder_reaches_every_process(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, jobs: str
) -> None:
    there = tmp_path / "there"
    save(there / "mine.npz", arrays(train=300, test=40))
    tiny.write_text(
        tiny.read_text()
        .replace('name = "digits"', 'name = "mine"\ntrain_size = 90')
        .replace("epochs = 2", "epochs = 1")
    )
    words: list[str | Path] = ["run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", jobs]
    if option == "MARGINBENCH_DATA":
        monkeypatch.setenv(option, str(there))
    else:
        words += [option, there]
    code, text, _ = run(*words)
    assert code == 0 and "2 runs done" in text and "FAILED" not in text
    print_ = load_suite(str(tiny)).load_data(there).fingerprint
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "tiny" / "runs").glob("*.json")]
    assert {record["identity"]["data"] for record in records} == {print_}
    assert {record["suite"]["data"]["train_size"] for record in records} == {90}


def test_evaluate_takes_a_name_and_a_folder(run: Run, tiny: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    save(there / "mnist.npz", arrays(train=300, test=40, classes=10))
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    words = ("evaluate", "--model", f"{tmp_path / 'net.py'}:net", "--suite", tiny, "--out", tmp_path / "out")
    code, text, _ = run(*words, "--data", "mnist", "--data-dir", there)
    assert code == 0 and "## tiny-mnist: mnist, with radii" in text


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


def test_no_test_reaches_the_network() -> None:
    import urllib.request

    with pytest.raises(URLError, match="no network in tests"):
        urllib.request.urlopen("http://localhost")
