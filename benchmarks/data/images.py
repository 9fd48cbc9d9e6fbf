"""One image file as 8-bit pixels, with nothing lost in silence.

An image is scaled until its shorter side has as many pixels as are wanted, and its centre is cut out.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marginbench.benchmarks.data.scaling import Size
from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's number of that field, and its value of images that are not turned
GREY, COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
OTHER_SPACES = ("CMYK", "YCbCr", "LAB", "HSV")  # with three channels of 8 bits, or four
MOST = 255  # the largest value that 8 bits hold


class Header(NamedTuple):
    """What a file says before its pixels are decoded."""

    size: Size
    is_grey: bool  # it holds one channel, besides alpha


def read_header(path: str) -> Header:
    """Read the header alone.

    Raises:
        MarginbenchError: it cannot be read.
    """
    with _opened(path) as image:
        return Header(image.size, _is_grey(image))


def _is_grey(image: "Image") -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY


class Decoded(NamedTuple):
    """An image file, decoded."""

    pixels: np.ndarray  # [C, H, W] uint8
    size: Size  # of the file
    remark: str  # on what was not taken as it is, empty where there is nothing to say


def read_image(path: str, shape: tuple[int, int, int]) -> Decoded:
    """The pixels, as many as `shape` [C, H, W] asks for.

    Palettes are exact. With a remark, an alpha channel that is opaque everywhere is dropped, other colour spaces are
    converted to RGB, and the first of several images in a file is taken. Where other images of the folder have colours,
    a grey one fills three channels.

    Raises:
        MarginbenchError: it cannot be read, has more than 8 bits per channel, or something shows through.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    with _opened(path) as image:
        remarks = [_remark(path, image, channels)]
        if image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
            remarks.append("turned by its EXIF data: read as its pixels are stored")
        if _frames(image) > 1:
            remarks.append("the first of several images in the file")
        kind = "L" if channels == 1 else "RGB"
        # a palette turns grey by way of colours; greys among them are left as they are
        flat = image.convert("RGB").getchannel(0) if channels == 1 and image.mode == "P" else image.convert(kind)
        pixels = np.asarray(ImageOps.fit(flat, (width, height), Image.Resampling.BILINEAR))
        size = image.size
    return Decoded(
        np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1)),
        size,
        "; ".join(filter(None, remarks)),
    )


def _frames(image: "Image") -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # Pillow meets what is damaged behind the first
        return 1


@contextmanager
def _opened(path: str) -> "Iterator[Image]":
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = placeholder(Path(path)) if Path(path).is_file() else None
        remedy = f": it {problem}" if problem else f" ({error}): copy or download it again"
        raise MarginbenchError(f"{path}: not a readable image{remedy}") from None


def _remark(path: str, image: "Image", channels: int) -> str:
    known = image.mode in (*GREY, *COLOUR, *OTHER_SPACES)
    if not known or any(_is_deep(tile[3]) for tile in getattr(image, "tile", ())):
        raise MarginbenchError(
            f"{path}: has more than 8 bits per channel (mode {image.mode}), which an image folder does not keep:"
            " convert the files to 8 bits, or give an .npz of float32 images in [0, 1]"
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema() != (MOST, MOST):
            raise MarginbenchError(
                f"{path}: has an alpha channel through which something shows: save the images on a background, without"
                " alpha"
            )
        image.info.pop("transparency", None)
        return "an alpha channel that is opaque everywhere is dropped"
    if image.mode in OTHER_SPACES:
        return f"converted from {image.mode} to RGB"
    return "grey, as three equal channels" if channels == 3 and _is_grey(image) else ""


def _is_deep(arguments: object) -> bool:
    """Whether a decoder of Pillow reads more than 8 bits: it hands on colours of 16 bits as 8, without a word.

    `BGR;16` has 16 bits for all three colours.

    Args:
        arguments: of its tile: a raw mode such as `RGB;16B`, alone or first of several; of PPM, with the largest value.
    """
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    modes = [part for part in parts if isinstance(part, str)]
    if any(re.search(r"(?<!BGR);(12|16|32|64)", mode) or mode[:1] in ("I", "F") for mode in modes):
        return True
    return len(parts) == 2 and isinstance(parts[1], int) and parts[1] > MOST
