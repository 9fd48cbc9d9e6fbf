"""What every source of data provides, and which of its images are used."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arrays:
    """All images [N, C, H, W] uint8 and labels [N] int64; `levels` is the pixel value that means 1.

    Images that may not fit into memory are memory-mapped. They come with `digests`: by part, the SHA-256 of each image,
    [N, 32] uint8. Their training images are stored in the hashed order, so that splits are slices.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    levels: int = 255
    digests: Mapping[str, np.ndarray] | None = None


def hashed_order(purpose: str, count: int) -> np.ndarray:
    """A random-looking order of `count` things, which depends on the purpose and the count alone."""
    keys = [hashlib.sha256(f"{purpose}:{i}".encode()).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def take(array: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """The rows, contiguous. Consecutive rows are not copied: what is memory-mapped stays on disk."""
    if isinstance(rows, np.ndarray) and len(rows) and bool((np.diff(rows) == 1).all()):
        rows = slice(rows[0], rows[-1] + 1)
    return np.ascontiguousarray(array[rows])


def long_tail(labels: np.ndarray, imbalance: float) -> np.ndarray:
    """Positions of the first n_c labels of each class c = 0 ... K - 1, with n_c = n imbalance^(-c / (K - 1)).

    The exponential profile of Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss,
    NeurIPS 2019, arXiv 1906.07413. n is the largest number for which every class has enough images.
    """
    classes, available = np.unique(labels, return_counts=True)
    shares = (1 / imbalance) ** (np.arange(len(classes)) / max(len(classes) - 1, 1))
    counts = np.floor((available / shares).min() * shares + 1e-6).astype(int)  # rounding may turn 50 into 49.999...
    rows = [np.flatnonzero(labels == c)[:count] for c, count in zip(classes, counts, strict=True)]
    return np.sort(np.concatenate(rows))
