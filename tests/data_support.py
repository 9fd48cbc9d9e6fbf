"""What the tests of the data share: small sets in the formats that are read."""

from pathlib import Path

import numpy as np
from PIL import Image

from marginbench.benchmarks.contract.fixtures import small_suite
from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.suites.augment import Augment
from marginbench.benchmarks.suites.schema import Suite

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


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.x}


def augmented_suite(epochs: int) -> Suite:
    """The suite of the contract tests with all transforms, as small as its images."""
    suite = small_suite(epochs=epochs)
    settings = {
        "crop": {"padding": 2},
        "random_resized_crop": {},
        "flip": {},
        "autoaugment": {},
        "cutout": {"length": 3},
    }
    training = suite.training.model_copy(update={"augment": Augment.model_validate(settings)})
    return suite.model_copy(update={"training": training})
