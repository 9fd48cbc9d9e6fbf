"""Data sets as uint8 tensors that live on the device."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marginbench.methods import MarginbenchError

DIGITS_TEST = 360  # of 1,797; the held-out share is fixed, so that no result can pick its split


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8 and labels [N] int64; `levels` is the pixel value that means 1."""

    x: Tensor
    y: Tensor
    levels: int

    def images(self, index: Tensor | slice) -> Tensor:
        """Images as float32 in [0, 1]."""
        return self.x[index].float() / self.levels

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Split":
        return replace(self, x=self.x.to(device), y=self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test split. Choices are made on validation; test is for the tables alone."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    fingerprint: str  # SHA-256 of all arrays, in their order

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "Dataset":
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)


def load_data(name: str, validation: int, folder: Path) -> Dataset:
    """Load `digits` (8x8 images from scikit-learn) or an .npz file with x_train, y_train, x_test, y_test.

    Images in the file are uint8, N x H x W or N x H x W x C. The validation split is drawn from the training
    images in an order given by hashing, the same on every machine.

    Args:
        name: `digits`, or the path of an .npz file, relative to `folder`.
        validation: images held out of the training set.
        folder: where the suite file is.

    Raises:
        MarginbenchError: unknown name, missing or malformed file.
    """
    if name == "digits":
        x_train, y_train, x_test, y_test, levels = _digits()
    elif name.endswith(".npz"):
        x_train, y_train, x_test, y_test = _read_npz(folder / name)
        levels = 255
    else:
        raise MarginbenchError(f"data.name {name!r}: write 'digits' or the path of an .npz file")
    if not 0 < validation < len(y_train):
        raise MarginbenchError(f"data.validation={validation}: must lie between 1 and {len(y_train) - 1}")
    order = _hashed_order("validation", len(y_train))
    held_out, kept = order[:validation], order[validation:]
    arrays = [x_train[kept], y_train[kept], x_train[held_out], y_train[held_out], x_test, y_test]
    fingerprint = hashlib.sha256()
    for array in arrays:
        fingerprint.update(f"{array.dtype}{array.shape}".encode())
        fingerprint.update(np.ascontiguousarray(array).tobytes())
    train, valid, test = (
        Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y), levels)
        for x, y in zip(arrays[::2], arrays[1::2], strict=True)
    )
    return Dataset(train, valid, test, int(y_train.max()) + 1, fingerprint.hexdigest())


def _hashed_order(purpose: str, count: int) -> np.ndarray:
    keys = [hashlib.sha256(f"{purpose}:{i}".encode()).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images.astype(np.uint8)[:, None]  # 17 grey levels, 0 to 16
    y = digits.target.astype(np.int64)
    order = _hashed_order("digits", len(y))
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return x[train], y[train], x[test], y[test], 16


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise MarginbenchError(f"{path}: no array {missing[0]!r}; needed are {', '.join(keys)}")
            arrays = {key: file[key] for key in keys}
    except FileNotFoundError:
        raise MarginbenchError(f"{path}: no such data file") from None
    except (OSError, ValueError) as error:
        raise MarginbenchError(f"{path}: not a readable .npz file ({error})") from None
    for key in ("x_train", "x_test"):
        x = arrays[key]
        if x.dtype != np.uint8 or x.ndim not in (3, 4):
            raise MarginbenchError(f"{path}: {key} is {x.dtype} {x.shape}; needed is uint8 NxHxW or NxHxWxC")
        arrays[key] = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    for part in ("train", "test"):
        y = arrays[f"y_{part}"].astype(np.int64).reshape(-1)
        if len(y) != len(arrays[f"x_{part}"]) or y.min() < 0:
            raise MarginbenchError(f"{path}: y_{part} must hold one label >= 0 for each image of x_{part}")
        arrays[f"y_{part}"] = y
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]
