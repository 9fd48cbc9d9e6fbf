"""What every source of data gives, and which of its images are used."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arrays:
    """All images [N, C, H, W] uint8 and labels [N] int64; `levels` is the pixel value that means 1.

    `digests` belongs to images that are memory-mapped, since they may be more than the memory holds: the SHA-256 of
    each [N, 32] uint8, by part. Such training images are stored in their hashed order, so that splits are slices.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    levels: int = 255
    digests: Mapping[str, np.ndarray] | None = None


def hashed_order(purpose: str, count: int) -> np.ndarray:
    """A random-looking order of `count` things that depends on nothing else."""
    keys = [hashlib.sha256(f"{purpose}:{i}".encode()).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def take(array: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """The rows, contiguous. Neighbours are not copied: what is memory-mapped stays on the disk."""
    if isinstance(rows, np.ndarray) and len(rows) and bool((np.diff(rows) == 1).all()):
        rows = slice(rows[0], rows[-1] + 1)
    return np.ascontiguousarray(array[rows])


def long_tail(labels: np.ndarray, imbalance: float) -> np.ndarray:
    """Positions of the first n_c labels of each class c = 0 ... K - 1, with n_c = n imbalance^(-c / (K - 1)).

    The exponential profile of Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss,
    NeurIPS 2019, arXiv 1906.07413. n is the largest number of which every class has its share.
    """
    classes, available = np.unique(labels, return_counts=True)
    shares = (1 / imbalance) ** (np.arange(len(classes)) / max(len(classes) - 1, 1))
    counts = np.floor((available / shares).min() * shares + 1e-6).astype(int)  # 50 may come out as 49.999...
    rows = [np.flatnonzero(labels == c)[:count] for c, count in zip(classes, counts, strict=True)]
    return np.sort(np.concatenate(rows))
