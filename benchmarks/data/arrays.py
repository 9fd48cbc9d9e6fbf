"""What every source of data provides, and which of its images are used."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from marginbench.benchmarks.data.text import Text


@dataclass(frozen=True)
class Arrays:
    """All images [N, C, H, W] uint8 or float32 and labels [N] int64; `levels` is the value that means 1, 1 for float32.

    Sentences are int32 [N, 2, 1, L], see `data.text`, and come with `text`.

    Images that may not fit into memory are memory-mapped. They come with `digests`: by part, the SHA-256 of each image,
    [N, 32] uint8. Their training images are stored in the hashed order, so that splits are slices.

    Images of a folder come with `files`: words on the files, which follow the shape of the images in a message.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    levels: int = 255
    digests: Mapping[str, np.ndarray] | None = None
    text: Text | None = None
    files: str = ""


def hashed_order(purpose: str, count: int) -> np.ndarray:
    """A random-looking order of `count` things, which depends on the purpose and the count alone."""
    keys = [hashlib.sha256(f"{purpose}:{i}".encode()).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def chosen(labels: np.ndarray, points: int) -> np.ndarray:
    """Positions [n] int64 of the images on which networks are measured: all, in their order, where there are no more.

    Otherwise a sample in which every class has its share. The images of each class are put in the order of
    `hashed_order("points", N)`; that at place r = 0, 1, ... of the n_c images of its class ranks by (r + 1/2) / n_c,
    and of equal ranks the first in the hashed order comes first. The `points` first by rank are taken, in this order.

    A class then has its share of the sample, rounded as by Sainte-Laguë: classes of equal size differ by one image at
    most. The first m images of a sample are the sample of m. Nothing but the labels and the places in the file matters.

    Args:
        labels: [N] int64, of the whole test split.
        points: how many are asked for.
    """
    count = len(labels)
    if points >= count:
        return np.arange(count, dtype=np.int64)
    order = hashed_order("points", count)
    rank = np.empty(count)
    for c in np.unique(labels):
        rows = order[labels[order] == c]
        rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return order[np.argsort(rank[order], kind="stable")][:points]


def take(array: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """The rows, contiguous. Consecutive rows are not copied: what is memory-mapped stays on disk."""
    if isinstance(rows, np.ndarray) and len(rows) and bool((np.diff(rows) == 1).all()):
        rows = slice(rows[0], rows[-1] + 1)
    return np.ascontiguousarray(array[rows])


def long_tail(labels: np.ndarray, imbalance: float, whole: np.ndarray | None = None) -> np.ndarray:
    """Positions of the first n_c labels of each class c = 0 ... K - 1, with n_c = n imbalance^(-c / (K - 1)).

    The exponential profile of Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss,
    NeurIPS 2019, arXiv 1906.07413. n is the largest number for which every class has enough images.

    Args:
        whole: the labels that n is taken from, of which `labels` are a part; a class that has fewer than n_c of them
            left gives all. Default: `labels`.
    """
    classes, available = np.unique(labels if whole is None else whole, return_counts=True)
    shares = (1 / imbalance) ** (np.arange(len(classes)) / max(len(classes) - 1, 1))
    counts = np.floor((available / shares).min() * shares + 1e-6).astype(int)  # rounding may turn 50 into 49.999...
    rows = [np.flatnonzero(labels == c)[:count] for c, count in zip(classes, counts, strict=True)]
    return np.sort(np.concatenate(rows))
