"""Data sets as tensors that live on the device, uint8 or float32 as they came."""

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marginbench.benchmarks.data.arrays import Arrays, chosen, hashed_order, long_tail, take
from marginbench.benchmarks.data.sentence_sets import find_sentences, is_text
from marginbench.benchmarks.data.sources import find
from marginbench.benchmarks.data.text import Text
from marginbench.benchmarks.machine.upload import upload
from marginbench.methods import MarginbenchError

log = logging.getLogger(__name__)

VARIABLE = "MARGINBENCH_DATA"


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8 or float32 and labels [N] int64; `levels` is the value that means 1, 1 for float32.

    Or sentences, [N, 2, 1, L] int32, see `data.text`.

    Labels are on the device. So are the images, unless the device has no room for them.
    """

    x: Tensor
    y: Tensor
    levels: int

    @property
    def device(self) -> torch.device:
        return self.y.device

    @property
    def is_text(self) -> bool:
        """Sentences, not images."""
        return self.x.dtype == torch.int32

    def images(self, index: Tensor | slice) -> Tensor:
        """Images as float32 in [0, 1], or sentences as int64, on the device."""
        x = self.x[index.to(self.x.device) if isinstance(index, Tensor) else index]
        here = upload(x, self.device)
        return here.long() if self.is_text else here.float() / self.levels

    def sample(self, points: int) -> Tensor:
        """Positions [n] int64 of a sample in which every class has its share, or of all; see `arrays.chosen`."""
        return torch.from_numpy(chosen(self.y.cpu().numpy(), points)).to(self.device)

    def rows(self, index: Tensor) -> "Split":
        """These images alone. Where they are all in their order nothing is copied."""
        if torch.equal(index, torch.arange(len(self), device=index.device)):
            return self
        return replace(self, x=self.x[index.to(self.x.device)], y=self.y[index])

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Split":
        """Move to the device; images that would take more than half of a GPU's free memory stay on the host."""
        room = device.type != "cuda" or self.x.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        return replace(self, x=self.x.to(device) if room else self.x, y=self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test split. Choices are made on validation; test is for the tables alone."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    fingerprint: str  # SHA-256 of all arrays, in their order, and of what their values mean
    text: Text | None = None  # of sentences
    files: str = ""  # words on the files of an image folder, which follow the shape of the images in a message

    @property
    def checkpoint(self) -> Path | None:
        """The folder that networks of these sentences start from, if any."""
        return None if self.text is None else self.text.checkpoint

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "Dataset":
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)


def data_folder(chosen: str | Path | None = None) -> Path:
    """The folder of data sets: the one given, else $MARGINBENCH_DATA, else marginbench in the user's cache."""
    if chosen is not None:
        return Path(chosen).expanduser()
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "marginbench"


def load_data(
    name: str,
    validation: int,
    folder: Path,
    data_dir: str | Path | None = None,
    *,
    train_size: int | None = None,
    imbalance: float | None = None,
    size: int | None = None,
    max_length: int | None = None,
    checkpoint: str | None = None,
    evaluate: str | None = None,
) -> Dataset:
    """Load a data set and split its training images, or sentences.

    Hashing gives the training images an order that is the same on every machine: the first are the validation split,
    the next the training split. Nothing here touches the test images.

    Args:
        name: `digits`, a set that torchvision knows, `imagenet`, an .npz file, or an image folder; see `sources.find`.
            Or sentences: `sentences`, or a task of GLUE; see `sentence_sets.find_sentences`.
        validation: images held out of the training set.
        folder: where the suite file is.
        data_dir: folder of data sets. Default: see `data_folder`.
        train_size: images to train on. Default: all that are left.
        imbalance: makes the training split long-tailed: the first class has this many times as many images as the
            last; see `long_tail`. Its numbers are those of the training set with the validation images, which shorten
            only classes of which the tail leaves too few for them: the first. With `train_size` they are those of that
            many images.
        size: height and width to which the images of a folder are scaled; default: see `scaling.default_size`. Images
            that this enlarges are told.
        max_length: tokens of a sentence, or of a pair, with the special ones; longer ones are cut.
        checkpoint: whose tokenizer reads sentences; see `checkpoint.find_checkpoint`.
        evaluate: "validation" puts the validation images in the place of the test images, which are then neither looked
            at nor part of the fingerprint. Default: the test images.

    Raises:
        MarginbenchError: unknown name, missing or malformed data, or a split that cannot be made.
    """
    home = data_folder(data_dir)
    if is_text(name):
        found = find_sentences(name, folder, home, max_length, checkpoint, size)
    else:
        found = find(name, folder, home, size, max_length)
    labels, count = found.y_train, len(found.y_train)
    if not labels.any():
        raise MarginbenchError(f"data {name!r}: has one class alone: a margin lies between two classes or more")
    if not 0 < validation < count:
        raise MarginbenchError(f"data.validation={validation}: must lie between 1 and {count - 1}")
    order = np.arange(count) if found.digests else hashed_order("validation", count)
    held_out, kept = order[:validation], order[validation:]
    if train_size is not None:
        if train_size > len(kept):
            raise MarginbenchError(f"data.train_size={train_size}: must lie between 1 and {len(kept)}")
        kept = kept[:train_size]
    if imbalance is not None:
        whole = labels if train_size is None else labels[kept]
        kept = kept[long_tail(labels[kept], imbalance, whole)]
    lost = np.setdiff1d(labels, labels[kept])
    if len(lost):
        reason = "train_size, imbalance or validation"
        ways = {"raise train_size": train_size is not None, "lower imbalance": imbalance is not None}
        ways |= {"lower validation": validation > 1, "add images of that class": True}
        remedy = ", or ".join(way for way, helps in ways.items() if helps)
        raise MarginbenchError(f"data: with this {reason} no training image of class {lost[0]} is left: {remedy}")

    held = evaluate == "validation"
    if not held and log.isEnabledFor(logging.WARNING) and (known := _known(found)):
        what = "images" if found.text is None else "sentences"
        log.warning("data %r: %d of %d test %s are training %s too", name, known, len(found.y_test), what, what)

    meaning = f"levels={found.levels}" if found.text is None else f"text={found.text.sha256}"
    fingerprint = hashlib.sha256(meaning.encode())
    splits = []
    parts = [("train", kept), ("train", held_out), *([] if held else [("test", slice(None))])]
    for part, rows in parts:
        x, y = (take(getattr(found, f"{letter}_{part}"), rows) for letter in "xy")
        for array, content in ((x, take(found.digests[part], rows) if found.digests else x), (y, y)):
            fingerprint.update(f"{array.dtype}{array.shape}".encode())
            fingerprint.update(content.data)
        splits.append(Split(torch.from_numpy(x), torch.from_numpy(y), found.levels))
    train, valid, test = [*splits, splits[1]][:3]
    return Dataset(train, valid, test, int(labels.max()) + 1, fingerprint.hexdigest(), found.text, found.files)


def _known(found: Arrays) -> int:
    """How many test images are training images, to the bit."""
    train, test = (found.digests[part] if found.digests else getattr(found, f"x_{part}") for part in ("train", "test"))
    seen = {hash(image.tobytes()) for image in train}
    return sum(hash(image.tobytes()) in seen for image in test)
