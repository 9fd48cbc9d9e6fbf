"""Image folders: decoded once into a cache, or explained."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_support import rows, save_images
from PIL import Image

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.data.folders import read_folder
from marginbench.methods import MarginbenchError


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
        patch.setattr("marginbench.benchmarks.data.folders.read_image", stop)
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


def _save_bitmaps(place: Path, level: int) -> None:
    """Images of one size in bytes and one time, as an archive unpacks them."""
    for part in ("train", "test"):
        for name in "ab":
            (place / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(3):
                path = place / part / name / f"{i}.bmp"
                Image.fromarray(np.full((4, 4), level + i, np.uint8)).save(path)
                os.utime(path, ns=(1, 1))


def test_files_of_the_same_names_sizes_and_times_are_told_apart(sets: Path, tmp_path: Path) -> None:
    for kind, level in (("clean", 10), ("noisy", 100)):
        _save_bitmaps(tmp_path / kind / "flowers", level)
    clean, noisy = (load_data("flowers", 2, tmp_path / kind, sets) for kind in ("clean", "noisy"))
    assert (int(clean.test.x.max()), int(noisy.test.x.max())) == (12, 102)
    _save_bitmaps(tmp_path / "clean" / "flowers", 200)  # in place
    assert int(load_data("flowers", 2, tmp_path / "clean", sets).test.x.max()) == 202
    shutil.move(tmp_path / "noisy", tmp_path / "moved")
    assert load_data("flowers", 2, tmp_path / "moved", sets).fingerprint == noisy.fingerprint


def test_contents_count_where_a_file_system_gives_all_files_one_time(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def fixed(path: Path, **kwargs: bool) -> os.stat_result:
        found = stat(path, **kwargs)
        if path.suffix != ".bmp":
            return found
        kind, times = type(found), {"st_ctime_ns": 1, "st_mtime_ns": 1}
        return kind([*found], times)

    monkeypatch.setattr(Path, "stat", fixed)
    for level in (10, 100):
        _save_bitmaps(tmp_path / "flowers", level)
        assert int(load_data("flowers", 2, tmp_path, sets).test.x.max()) == level + 2


def test_imagenet_and_other_folders_are_found_in_the_data_folder(sets: Path, tmp_path: Path) -> None:
    save_images(sets / "imagenet", {"n01": 4, "n02": 4})
    data = load_data("imagenet", 2, tmp_path, sets)
    assert data.shape == (3, 224, 224)
    assert {path.name.split("-")[0] for path in sets.iterdir()} == {"imagenet"}
    save_images(tmp_path / "own", {"a": 3, "b": 2}, test="test")
    assert len(load_data(str(tmp_path / "own"), 1, Path(), sets, size=4).test) == 5


def _no_test(place: Path) -> None:
    for path in (place / "val").rglob("*.png"):
        path.unlink()


def _other_class(place: Path) -> None:
    (place / "val" / "rose").rename(place / "val" / "lily")


def _broken_image(place: Path) -> None:
    (place / "train" / "rose" / "0.png").write_bytes(b"no image")


def _broken_link(place: Path) -> None:
    image = place / "train" / "rose" / "0.png"
    image.unlink()
    image.symlink_to(place / "moved.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_test, ["flowers", "train and test (or val)"]),
        (_other_class, ["flowers", "'lily'", "one of train and val only"]),
        (_broken_image, ["rose/0.png", "not a readable image"]),
        (_broken_link, ["rose/0.png", "not a readable image", "No such file"]),
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


def test_images_that_cannot_be_read_are_told_together(sets: Path, tmp_path: Path) -> None:
    """Leaving one out would make another data set, so the folder is refused, but in one round."""
    place = tmp_path / "flowers"
    save_images(place, {"rose": 3, "tulip": 3})
    bad = [place / "train" / "rose" / "0.png", place / "train" / "tulip" / "2.png", place / "val" / "rose" / "1.png"]
    for path in bad:
        path.write_bytes(b"no image")
    with pytest.raises(MarginbenchError) as caught:
        load_data("flowers", 2, tmp_path, sets, size=4)
    head, *lines = str(caught.value).splitlines()
    assert head == f"image folder {place}: 3 problems:" and len(lines) == 3
    assert all(sum(str(path) in line for line in lines) == 1 for path in bad)
    assert not list(sets.iterdir()), "half a cache is left"


def test_one_class_alone_has_no_margin(sets: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "flowers", {"rose": 3})
    with pytest.raises(MarginbenchError, match=r"'flowers': has one class alone: a margin lies between"):
        load_data("flowers", 1, tmp_path, sets, size=4)


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n")


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pointer, "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (_cut_off, r"\(.*\): copy or download it again"),
        (lambda path: path.write_bytes(b""), "it is empty: copy or download it again"),
    ],
)
def test_an_image_that_is_none_has_a_remedy(
    sets: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    save_images(tmp_path / "flowers", {"rose": 3, "tulip": 3})
    spoil(tmp_path / "flowers" / "train" / "rose" / "0.png")
    with pytest.raises(MarginbenchError, match=rf"rose/0\.png: not a readable image:? ?{words}"):
        load_data("flowers", 2, tmp_path, sets, size=4)


@pytest.mark.parametrize(("names", "line"), [(range(11), "'10' is class 2"), (range(1, 4), "'1' is class 0")])
def test_numbers_that_are_not_the_labels_are_told(
    names: range, line: str, sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_images(tmp_path / "digits10", {str(name): 1 for name in names})
    read_folder(tmp_path / "digits10", sets, 4)
    (message,) = caplog.messages
    assert message.endswith(f"class folders are numbered in the order of their names, so that {line}")


@pytest.mark.parametrize("names", [[str(i) for i in range(10)], ["0", "1", "other"], ["cat", "dog"]])
def test_other_names_are_not(names: list[str], sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_images(tmp_path / "mine", dict.fromkeys(names, 1))
    read_folder(tmp_path / "mine", sets, 4)
    assert not caplog.messages


def test_files_that_are_left_out_are_told(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "flowers"
    save_images(place, {"rose": 3, "tulip": 3})
    for name in ("9.gif", "8.npy", ".DS_Store"):
        (place / "train" / "rose" / name).write_bytes(b"")
    read_folder(place, sets, 4)
    (message,) = caplog.messages
    assert "left out of train, being no images by their names: 2 (.gif, .npy), such as " in message
    caplog.clear()
    (place / "train" / "rose" / "7.svg").write_bytes(b"")
    read_folder(place, sets, 4)
    (message,) = caplog.messages
    assert "3 (.gif, .npy, .svg)" in message, "from the cache"


def test_hidden_files_are_no_images(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "flowers"
    save_images(place, {"rose": 3, "tulip": 3})
    (place / "train" / "rose" / "._0.png").write_bytes(b"Mac OS X")
    hidden = place / "train" / "rose" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(place / "train" / "rose" / "0.png", hidden / "0-checkpoint.png")
    assert len(read_folder(place, sets, 4).x_train) == 6
    assert not caplog.messages
    for path in (place / "val" / "rose").iterdir():
        path.rename(path.with_name(f"._{path.name}"))
    with pytest.raises(MarginbenchError, match="rose"):
        read_folder(place, sets, 4)


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX"])
@pytest.mark.parametrize("image", [None, "0.png", "._0.png"])
def test_hidden_folders_are_no_classes(
    name: str, part: str, image: str | None, sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "flowers"
    save_images(place, {"rose": 3, "tulip": 2})
    clean = read_folder(place, sets, 4)
    (place / part / name).mkdir()
    if image is not None:
        shutil.copy(place / part / "rose" / "0.png", place / part / name / image)
    found = read_folder(place, sets, 4)
    assert (found.y_train.tolist(), found.y_test.tolist()) == (clean.y_train.tolist(), clean.y_test.tolist())
    assert np.array_equal(found.x_train, clean.x_train) and np.array_equal(found.x_test, clean.x_test)
    assert not caplog.messages


@pytest.mark.parametrize("hidden", [False, True])
def test_a_class_without_images_is_explained(hidden: bool, sets: Path, tmp_path: Path) -> None:
    """Where no folder is left but hidden ones, there is no class."""
    place = tmp_path / "flowers"
    save_images(place, {"rose": 3, "tulip": 3})
    if hidden:
        shutil.rmtree(place / "val")
        (place / "val" / ".ipynb_checkpoints").mkdir(parents=True)
        words = f"no folder of a class in {place / 'val'}; it needs train"
    else:
        (place / "val" / "lily").mkdir()
        words = "for the classes lily; it needs train"
    with pytest.raises(MarginbenchError) as caught:
        read_folder(place, sets, 4)
    assert words in str(caught.value)


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


SMALL = {"rose": 3, "tulip": 3}


def test_files_of_one_small_square_are_taken_as_they_are(
    sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "marginbench")
    place = tmp_path / "flowers"
    save_images(place, SMALL, (8, 8))
    wanted = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in (place / "val").rglob("*.png")}
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        data = load_data("flowers", 2, tmp_path, sets)
        assert data.shape == (3, 8, 8) and rows(data.test) == wanted
        assert caplog.messages == [
            f"image folder {place}: all files are 8x8 and taken as they are; --set data.size=N scales them to NxN"
        ]
    caplog.clear()
    assert load_data("flowers", 2, tmp_path, sets, size=8).fingerprint == data.fingerprint
    assert not caplog.messages and len(list(sets.iterdir())) == 1, "the same data in one cache"
    for path in place.rglob("*.png"):
        Image.open(path).resize((7, 7)).save(path)
    assert load_data("flowers", 2, tmp_path, sets).shape == (3, 7, 7), "the size follows the files"


@pytest.mark.parametrize(("width", "height"), [(224, 224), (225, 225), (8, 9)])
def test_other_files_are_scaled_to_the_default(width: int, height: int, sets: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "flowers", SMALL, (width, height))
    assert load_data("flowers", 2, tmp_path, sets).shape == (3, 224, 224)


def test_images_that_are_scaled_up_are_told(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At every load, whichever sizes were decoded before."""
    place = tmp_path / "flowers"
    save_images(place, SMALL, (8, 8))
    head, advice = f"image folder {place}: ", "and L2 distances with them: --set data.size=8 enlarges none"
    for _ in range(2):
        caplog.clear()
        data = load_data("flowers", 2, tmp_path, sets, size=80)
        assert data.shape == (3, 80, 80)
        assert caplog.messages == [f"{head}12 of 12 images, of 8x8 pixels, are scaled up to 80x80, {advice}"]
    assert load_data("flowers", 2, tmp_path, sets).shape == (3, 8, 8)

    for name in ("train/rose/0.png", "val/tulip/1.png", "val/tulip/2.png"):
        Image.open(place / name).resize((300, 240)).save(place / name)
    Image.open(place / name).resize((100, 230)).save(place / name)
    for size in (None, 224):
        caplog.clear()
        assert load_data("flowers", 2, tmp_path, sets, size=size).shape == (3, 224, 224)
        wanted = f"{head}10 of 12 images, of 8x8 to 100x230 pixels, are scaled up to 224x224, {advice}"
        assert caplog.messages == [wanted]
    caplog.clear()
    load_data("flowers", 2, tmp_path, sets, size=8)
    assert not caplog.messages


@pytest.mark.parametrize("name", ["d.pt", "x.npy"])
def test_a_file_of_another_type_is_told_so(name: str, sets: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MarginbenchError, match=r"only \.npz is read"):
        load_data(name, 2, tmp_path, sets)
