"""Sentences as networks see them: an integer tensor in the place of images.

    x [N, 2, 1, L] int32:  x[:, 0, 0] token ids;  x[:, 1, 0] segments: 1 first sentence, 2 second, 0 padding

so that a batch holds all that belongs to it, and rows can be taken as of images. Padding stands at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PADDING = 0  # among segments


@dataclass(frozen=True)
class Text:
    """What is to be known of a set of sentences beside its arrays.

    Attributes:
        sha256: of what the ids mean: of the files of the checkpoint, or of the words.
        metrics: names in `records.scores.SCORES` of what its benchmark judges it by, beside accuracy.
        checkpoint: the folder whose tokenizer made the ids and from which training starts, if any.
    """

    sha256: str
    metrics: tuple[str, ...] = ()
    checkpoint: Path | None = None


def as_tensor(rows: Sequence[tuple[Sequence[int], Sequence[int]]], length: int, pad: int) -> np.ndarray:
    """[N, 2, 1, length] int32 of pairs (token ids, segments), none longer than `length`; padded with the id `pad`."""
    x = np.zeros((len(rows), 2, 1, length), np.int32)
    x[:, 0] = pad
    for row, (ids, segments) in zip(x, rows, strict=True):
        row[0, 0, : len(ids)] = ids
        row[1, 0, : len(segments)] = segments
    return x
