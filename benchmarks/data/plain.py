"""Arrays of a user, read as what they plainly are, with a line where that is not what was asked for, or refused.

Asked for are images N x H x W or N x H x W x C, uint8 or float in [0, 1], and labels 0 ... K - 1.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from marginbench.benchmarks.data.arrays import Arrays
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import Problems

log = logging.getLogger(__name__)

COLOURS = (1, 3)  # channels that an axis of this length may hold, however large the image is
WHITE = 255
DARK = 1 / 2  # of what means white: images that nowhere reach this share are on another scale, or dark indeed
EXCESS = 2e-6  # outside of [0, 1]: rounding in float32, of a division or a change of scale
MOST = 2**31  # above any label
WANTED = "it should be NxHxW or NxHxWxC, uint8 or float in [0, 1]"


class _Reader:
    """Names what is wrong, all of it together, and collects what was read in another way than it was written."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems = Problems(where)
        self._remarks: dict[str, list[str]] = defaultdict(list)

    def wrong(self, name: str, problem: str) -> MarginbenchError:
        return MarginbenchError(f"{name} {problem}")

    def say(self, name: str, remark: str) -> None:
        self._remarks[remark].append(name)

    def report(self) -> None:
        """Say so.

        Raises:
            MarginbenchError: something is wrong.
        """
        self.problems.report()
        for remark, names in self._remarks.items():
            log.warning("%s: %s: %s", self.where, " and ".join(names), remark)


def read_plainly(where: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Images as [N, C, H, W], uint8 or, if they are float, float32 with their very values; labels as int64.

    Args:
        where: begins every message.
        arrays: x_train, y_train, x_test, y_test.

    Raises:
        MarginbenchError: it can be read in two ways, loses information, or the parts do not fit together.
    """
    reader = _Reader(where)
    x, y, levels = {}, {}, {}
    for part in ("train", "test"):
        name = f"x_{part}"
        with reader.problems.collected():
            images = _channels_first(reader, name, arrays[name])
            x[part], levels[part] = _scaled(reader, name, images)
        with reader.problems.collected():
            y[part] = _labels(reader, f"y_{part}", arrays[f"y_{part}"], len(np.atleast_1d(arrays[name])))
    if len(x) == 2:
        with reader.problems.collected():
            _check_scale(reader, x, levels, arrays)
    if len(y) == 2 and len(y["train"]):
        with reader.problems.collected():
            _check_classes(reader, **y)
    reader.problems.report()
    x = _without_alpha(reader, x, levels["train"])
    reader.report()
    return Arrays(x["train"], y["train"], x["test"], y["test"], levels["train"])


def _check_scale(
    reader: _Reader, x: Mapping[str, np.ndarray], levels: Mapping[str, int], arrays: Mapping[str, np.ndarray]
) -> None:
    """Images of one shape and one scale in both parts."""
    if x["train"].shape[1:] != x["test"].shape[1:]:
        shapes = tuple(images.shape[1:] for images in x.values())
        raise reader.wrong("images", f"of x_train are {shapes[0]}, those of x_test {shapes[1]} (CxHxW)")
    if levels["train"] != levels["test"] or x["train"].dtype != x["test"].dtype:
        ranges = " and ".join(f"x_{part} {_range(arrays[f'x_{part}'])}" for part in x)
        raise reader.wrong(ranges, "are not on one scale: store both in the same way")


def _range(x: np.ndarray) -> str:
    return f"({x.dtype}, {x.min():.9g} to {x.max():.9g})"


def _channels_first(reader: _Reader, name: str, x: np.ndarray) -> np.ndarray:
    """The axis of the channels has a length of 1 or 3, or is shorter than both others."""
    if x.ndim and not x.size:
        raise reader.wrong(name, f"is {x.shape}: it holds no image")
    if x.ndim not in (3, 4):
        rows = f": reshape rows of features to Nx1xD, as {name}[:, None]" if x.ndim == 2 else ""
        raise reader.wrong(name, f"is {x.dtype} {x.shape}; {WANTED}{rows}")
    if x.ndim == 3:
        return x[:, None]
    _, first, middle, last = x.shape
    is_first = first in COLOURS or first < min(middle, last)
    is_last = last in COLOURS or last < min(first, middle)
    if is_first == is_last:
        raise reader.wrong(
            name,
            f"is {x.shape}: which axis holds the channels? Give images NxHxWxC with 1 or 3 channels, or NxHxW for one"
            " channel, and pad images that are 1 or 3 pixels high or wide",
        )
    if is_first:
        reader.say(name, f"read as NxCxHxW, {first} x {middle} x {last}")
        return x
    return x.transpose(0, 3, 1, 2)


def _scaled(reader: _Reader, name: str, x: np.ndarray) -> tuple[np.ndarray, int]:
    """The images, and the value that means 1."""
    kind = x.dtype.kind
    if kind not in "buif":
        raise reader.wrong(name, f"is {x.dtype}; {WANTED}")
    if kind == "f" and not np.isfinite(x).all():
        raise reader.wrong(name, "holds values that are not finite")
    low, high = x.min(), x.max()
    if kind == "f" and (low < 0 or high > 1) and low >= -EXCESS and high <= 1 + EXCESS:
        reader.say(name, f"holds {low:.9g} to {high:.9g}, by rounding: cut off at 0 and 1")
        x = x.clip(0, 1)
        low, high = x.min(), x.max()
    if kind == "f" and low >= 0 and high <= 1:
        if high <= 1 / WHITE:
            raise reader.wrong(name, f"holds no value above {high:g}: was it divided by 255 twice? {WANTED}")
        _say_dark(reader, name, high, 1)
        exact = x.astype(np.float32)
        if (exact != x).any():
            reader.say(name, f"{x.dtype} is rounded to float32")
        return exact, 1
    if kind in "biu" and low >= 0 and high == 1:
        reader.say(name, "holds 0 and 1 alone: 1 means white, not 255")
        return x.astype(np.uint8), 1
    if x.dtype in (np.uint8, np.bool_):
        _say_dark(reader, name, high, WHITE)
        return x.astype(np.uint8), WHITE
    if low >= 0 and DARK * WHITE <= high <= WHITE and (kind in "iu" or (x == np.rint(x)).all()):
        reader.say(name, f"{x.dtype} holds whole numbers: read as 8 bits, 255 means white")
        return x.astype(np.uint8), WHITE
    scale = "mean and std are for what normalises them" if low < 0 else "divide by the value that means white"
    raise reader.wrong(name, f"holds {x.dtype} from {low:.9g} to {high:.9g}: give float32 in [0, 1]; {scale}")


def _say_dark(reader: _Reader, name: str, high: np.generic, white: int) -> None:
    if float(high) < DARK * white:
        reader.say(name, f"holds no value above {float(high):g}; {white} means white")


def _without_alpha(reader: _Reader, x: dict[str, np.ndarray], white: int) -> dict[str, np.ndarray]:
    """Without a second or fourth channel that is white everywhere: it says that nothing shows through."""
    channels = x["train"].shape[1]
    if channels not in (2, 4):
        return x
    if not all((images[:, -1] == white).all() for images in x.values()):
        reader.say("images", f"{channels} channels: if the last is alpha, leave it out, for attacks change it too")
        return x
    reader.say("images", f"the last of {channels} channels is opaque everywhere: dropped as alpha")
    return {part: images[:, :-1] for part, images in x.items()}


def _labels(reader: _Reader, name: str, y: np.ndarray, count: int) -> np.ndarray:
    if y.dtype.kind not in "buif":
        raise reader.wrong(name, f"is {y.dtype}: number the classes 0, 1, 2, ...")
    odd = ~np.isfinite(y) | (y != np.rint(y)) | (y > MOST)
    if odd.any():
        raise reader.wrong(name, f"holds {y[odd].flat[0]:g}: labels are whole numbers 0, 1, 2, ...")
    whole = y.astype(np.int64)
    if y.ndim == 2 and y.shape[1] > 1 and len(y) == count:
        if not (np.isin(whole, (0, 1)).all() and (whole.sum(1) == 1).all()):
            raise reader.wrong(name, f"is {y.shape}, and its rows are not one-hot: give one label for each image")
        reader.say(name, f"rows of {y.shape[1]} are read as one-hot")
        whole = whole.argmax(1).astype(np.int64)
    whole = whole.reshape(-1)
    if len(whole) != count or (count and whole.min() < 0):
        raise reader.wrong(name, f"must hold one label >= 0 for each image of x{name[1:]}")
    return whole


def _check_classes(reader: _Reader, train: np.ndarray, test: np.ndarray) -> None:
    """0 ... K - 1, each with a training image."""
    classes = np.unique(train)
    gaps = np.flatnonzero(classes != np.arange(len(classes)))
    if len(gaps):
        held = f"has labels from {classes[0]} to {classes[-1]} and none of class {gaps[0]}"
        remedy = "number the classes 0, 1, 2, ... in both parts, as np.unique(y, return_inverse=True)[1] does"
        raise reader.wrong("y_train", f"{held}: {remedy}")
    strange = np.setdiff1d(test, classes)
    if len(strange):
        raise reader.wrong("y_test", f"has the label {strange[0]}, which y_train lacks")
    unseen = np.setdiff1d(classes, test)
    if len(unseen):
        reader.say("y_test", f"no image of {len(unseen)} of the {len(classes)} classes, such as {unseen[0]}")
