"""Where the images come from: scikit-learn, an .npz file, torchvision, or a folder of images."""

import contextlib
import importlib.util
import io
import logging
import socket
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np

from marginbench.benchmarks.data.arrays import Arrays, hashed_order
from marginbench.benchmarks.data.folders import read_folder
from marginbench.benchmarks.data.plain import read_plainly
from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import Problems, all_lines, suggest

log = logging.getLogger(__name__)

DIGITS_TEST = 360  # of 1,797; fixed, so that no result can choose its split
TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
NAMES = ("digits", *TORCHVISION, "imagenet")
KEYS = ("x_train", "y_train", "x_test", "y_test")
DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)  # what reading an .npz raises
PATIENCE = 30.0  # seconds without an answer after which a download has failed
OTHER_FOLDER = "or set data_dir or MARGINBENCH_DATA to the folder that has it"


def find(name: str, folder: Path, data_dir: Path, size: int | None = None, max_length: int | None = None) -> Arrays:
    """Find a data set by name.

    - `digits`: 8x8 images that come with scikit-learn.
    - `FILE.npz`, relative to `folder`, else to `data_dir`: arrays x_train, y_train, x_test, y_test. Images are
      N x H x W or N x H x W x C, uint8 or float in [0, 1]; see `plain.py` for what else is understood.
    - Any other name: `data_dir`/NAME.npz if there is one. If not, data sets that torchvision knows are read from its
      files in `data_dir`, and downloaded if those are missing.
    - Otherwise an image folder, relative to `folder` or to `data_dir`, with one folder of images per class in `train`
      and in `test` (or `val`). `imagenet` is one.

    Raises:
        MarginbenchError: unknown, missing or malformed; it says what was looked for where.
    """
    if max_length is not None:
        raise MarginbenchError(f"data.max_length={max_length}: for sentences only; {name!r} are images")
    if name == "digits":
        found = _digits()
    elif name.endswith(".npz"):
        found = _read_npz(_npz_file(name, folder, data_dir))
    elif (data_dir / f"{name}.npz").is_file():
        found = _read_npz(data_dir / f"{name}.npz")
    elif name in TORCHVISION:
        found = _torchvision(name, data_dir)
    else:
        return read_folder(_image_folder(name, folder, data_dir), data_dir, size)
    if size is not None:
        raise MarginbenchError(f"data.size={size}: for image folders only; the images of {name!r} stay as they are")
    return found


def _digits() -> Arrays:
    file = _scikit_learn() / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, dtype=np.uint8, delimiter=",")  # a row: 64 pixels of 17 grey levels, 0 to 16, and a label
    x = table[:, :-1].reshape(-1, 1, 8, 8)
    y = table[:, -1].astype(np.int64)
    order = hashed_order("digits", len(y))
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return Arrays(x[train], y[train], x[test], y[test], levels=16)


def _scikit_learn() -> Path:
    """Its folder. Importing it would take seconds."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise MarginbenchError("data 'digits': needs scikit-learn: pip install scikit-learn")
    return Path(found.origin).parent


def _npz_file(name: str, folder: Path, data_dir: Path) -> Path:
    for path in (folder / name, data_dir / name):
        if path.is_file():
            return path
    raise MarginbenchError(f"{folder / name}: no such data file, and no {data_dir / name}; {OTHER_FOLDER}")


def _read_npz(path: Path) -> Arrays:
    arrays, problems = {}, Problems(str(path))
    try:
        if (problem := placeholder(path)) is not None:
            raise MarginbenchError(f"{path}: not a readable .npz file: it {problem}")
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise MarginbenchError(f"{path}: no array {', '.join(map(repr, missing))}; it needs {', '.join(KEYS)}")
            for key in KEYS:
                try:
                    arrays[key] = file[key]
                except DAMAGED as error:
                    problems.add(f"{key} cannot be read ({all_lines(error)})")
    except (*DAMAGED, AttributeError) as error:
        raise MarginbenchError(f"{path}: not a readable .npz file ({all_lines(error)})") from None
    problems.report()
    return read_plainly(str(path), arrays)


def _torchvision(name: str, data_dir: Path) -> Arrays:
    try:
        arrays = _read_torchvision(name, data_dir, download=False)
    except Exception as error:  # damaged files fail in many ways
        if "download=True" not in str(error):  # what torchvision says where files are missing
            raise MarginbenchError(
                f"data {name!r}: torchvision cannot read its files in {data_dir} ({all_lines(error)}); delete them to"
                " download them again"
            ) from None
        arrays = _download(name, data_dir)
    return read_plainly(f"data {name!r} in {data_dir}", arrays)


def _read_torchvision(name: str, data_dir: Path, download: bool) -> dict[str, np.ndarray]:
    from torchvision import datasets

    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        if name == "svhn":
            found = datasets.SVHN(data_dir, split=part, download=download)
            images, labels = found.data.transpose(0, 2, 3, 1), found.labels
        else:
            found = getattr(datasets, TORCHVISION[name])(data_dir, train=part == "train", download=download)
            images, labels = found.data, found.targets
        arrays |= {f"x_{part}": np.asarray(images), f"y_{part}": np.asarray(labels)}
    return arrays


def _download(name: str, data_dir: Path) -> dict[str, np.ndarray]:
    text = f"downloading {name} into {data_dir}"
    note = threading.Timer(2, log.info, ("%s", text))  # only if it takes a while
    timeout = socket.getdefaulttimeout()
    note.start()
    try:
        socket.setdefaulttimeout(PATIENCE)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            return _read_torchvision(name, data_dir, download=True)
    except Exception as error:  # downloads fail in many ways, too
        raise MarginbenchError(
            f"data {name!r}: no {data_dir / name}.npz (arrays {', '.join(KEYS)}), no files of torchvision's"
            f" {TORCHVISION[name]} in {data_dir}, and downloading them failed ({all_lines(error)}); put one of the two"
            f" there, {OTHER_FOLDER}"
        ) from None
    finally:
        note.cancel()
        socket.setdefaulttimeout(timeout)


def _image_folder(name: str, folder: Path, data_dir: Path) -> Path:
    for place in (folder / name, data_dir / name):
        if (place / "train").is_dir():
            return place
    if name == "imagenet":
        place = data_dir / name
        raise MarginbenchError(
            f"data 'imagenet': no {place}.npz and no {place / 'train'}; it cannot be downloaded without an account: get"
            " the archives of ILSVRC2012 from image-net.org, have torchvision.datasets.ImageNet unpack them in"
            f" {place}, {OTHER_FOLDER}"
        )
    if (folder / name).is_file():
        raise MarginbenchError(f"data.name {name!r}: of files only .npz is read, which numpy.savez writes")
    raise MarginbenchError(
        f"data.name {name!r}: no {data_dir / name}.npz, and no image folder {folder / name / 'train'} or"
        f" {data_dir / name / 'train'}; {suggest(name, NAMES)}; or give an .npz file"
    )
