"""Image files: what 8 bits keep is kept exactly, and what they do not is told or refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_support import rows, save_images
from PIL import Image

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.data.images import read_header, read_image
from marginbench.methods import MarginbenchError

RNG = np.random.default_rng(2)
RGB = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
L = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
OPAQUE, HALF = np.full((6, 6, 1), 255, np.uint8), np.full((6, 6, 1), 128, np.uint8)


def png16(colour: int, channels: int) -> bytes:
    """A PNG of 6 x 6 pixels with 16 bits per channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + RNG.integers(0, 2**16, 6 * channels).astype(">u2").tobytes() for _ in range(6))
    head = struct.pack(">IIBBBBB", 6, 6, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def palette(path: Path, colours: np.ndarray, **more: object) -> None:
    image = Image.fromarray(L // 64, "L").copy()
    image = Image.frombytes("P", (6, 6), image.tobytes())
    image.putpalette(colours.astype(np.uint8).tobytes())
    image.save(path, **more)


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(path, exif=exif)


def stack(path: Path) -> None:
    """Two images in one file."""
    Image.fromarray(RGB).save(path, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)])


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


GREYS, FOUR = np.repeat([[9], [80], [200], [255]], 3, 1), RNG.integers(0, 256, (4, 3))
BITS = L > 99
READ = {  # how it is made, what it holds, the remark
    "colour": (save(RGB), RGB, ""),
    "grey": (save(L), L, ""),
    "black and white": (save(BITS), 255 * BITS, ""),
    "opaque colour": (save(np.concatenate([RGB, OPAQUE], 2)), RGB, "opaque everywhere is dropped"),
    "opaque grey": (save(np.concatenate([L[..., None], OPAQUE], 2)), L, "opaque everywhere is dropped"),
    "palette": (lambda path: palette(path, FOUR), FOUR[L // 64], ""),
    "opaque palette": (lambda path: palette(path, FOUR, transparency=b"\xff" * 4), FOUR[L // 64], "dropped"),
    "turned": (lambda path: turned(path, 6), RGB, "turned by its EXIF data: read as its pixels are stored"),
    "stack": (stack, RGB, "the first of several images in the file"),
    "upright": (lambda path: turned(path, 1), RGB, ""),
    "grey palette": (lambda path: palette(path, GREYS), GREYS[L // 64, 0], ""),
}


@pytest.mark.parametrize("name", READ)
def test_eight_bits_are_kept_exactly(name: str, tmp_path: Path) -> None:
    make, wanted, words = READ[name]
    path = tmp_path / "a.png"
    make(path)
    channels = 3 if wanted.ndim == 3 else 1
    assert read_header(str(path)) == ((6, 6), channels == 1)
    found, size, remark = read_image(str(path), (channels, 6, 6))
    assert (
        size == (6, 6)
        and found.dtype == np.uint8
        and np.array_equal(found, wanted.reshape(6, 6, channels).transpose(2, 0, 1))
    )
    assert words in remark and bool(words) == bool(remark)
    if channels == 1:
        three, _, remark = read_image(str(path), (3, 6, 6))
        assert (three == found).all() and (words or "three equal channels") in remark


SHOWS = "something shows"
REFUSED = {
    "grey of 16 bits": (save(L.astype(np.uint16) * 257), "more than 8 bits"),
    "PNG, grey of 16 bits": (write(png16(0, 1)), "more than 8 bits"),
    "PNG, colours of 16 bits": (write(png16(2, 3)), "more than 8 bits"),
    "PNG, grey and alpha of 16 bits": (write(png16(4, 2)), "more than 8 bits"),
    "PNG, colours and alpha of 16 bits": (write(png16(6, 4)), "more than 8 bits"),
    "PPM of 16 bits": (write(b"P6 6 6 65535\n" + RGB.astype(">u2").tobytes()), "more than 8 bits"),
    "PGM of 16 bits": (write(b"P5 6 6 65535\n" + L.astype(">u2").tobytes()), "more than 8 bits"),
    "PGM of 10 bits": (write(b"P5 6 6 1023\n" + L.astype(">u2").tobytes()), "more than 8 bits"),
    "TIFF of floats": (lambda path: Image.fromarray(L / np.float32(255)).save(path, "TIFF"), "more than 8 bits"),
    "colours, half transparent": (save(np.concatenate([RGB, HALF], 2)), SHOWS),
    "grey, half transparent": (save(np.concatenate([L[..., None], HALF], 2)), SHOWS),
    "one colour of a palette transparent": (lambda path: palette(path, FOUR, transparency=2), SHOWS),
    "one grey transparent": (lambda path: Image.fromarray(L).save(path, transparency=int(L[0, 0])), SHOWS),
    "no image": (write(b"no image"), "not a readable image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_is_refused(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(MarginbenchError) as caught:
        read_image(str(path), (3, 6, 6))
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value) and "\n" not in str(caught.value)


def test_other_ways_to_store_eight_bits_are_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"P5 6 6 15\n" + (L // 16).tobytes())
    assert np.array_equal(read_image(str(path), (1, 6, 6)).pixels[0], L // 16 * 17)
    pixels = (L // 64).astype("<u2") * 0x0421  # five bits of each colour in a BMP of 16 bits a pixel
    head = struct.pack("<IiiHHIIiiII", 40, 6, -6, 1, 16, 0, 72, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54 + 72, 0, 0, 54) + head + pixels.tobytes())
    assert read_image(str(path), (3, 6, 6)).remark == ""


def test_other_colour_spaces_are_converted_with_a_remark(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).convert("CMYK").save(path)
    assert read_image(str(path), (3, 6, 6)).remark == "converted from CMYK to RGB"


def folder(place: Path, modes: list[str]) -> None:
    """Images of these modes, one of each class in both parts."""
    save_images(place, {"rose": 3, "tulip": 3})
    for path in place.rglob("*.png"):
        Image.open(path).convert(modes[int(path.stem) % len(modes)]).save(path)


def test_a_folder_of_grey_images_has_one_channel(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path / "grey", ["L"])
    data = load_data("grey", 2, tmp_path, sets, size=9)
    assert data.shape == (1, 9, 9) and not caplog.messages
    files = (tmp_path / "grey" / "val").rglob("*.png")
    wanted = {Image.open(path).resize((9, 9), Image.Resampling.BILINEAR, (1.5, 0, 10.5, 9)).tobytes() for path in files}
    assert rows(data.test) == wanted


def test_grey_images_among_others_are_counted(sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path / "mixed", ["L", "RGB", "RGBA"])
    data = load_data("mixed", 2, tmp_path, sets, size=9)
    assert data.shape == (3, 9, 9)
    remarks = [message.split(": ", 1)[1] for message in caplog.messages]
    assert remarks == [
        "2 of 6 train images: an alpha channel that is opaque everywhere is dropped",
        "2 of 6 train images: grey, as three equal channels",
        "2 of 6 test images: an alpha channel that is opaque everywhere is dropped",
        "2 of 6 test images: grey, as three equal channels",
    ]
    caplog.clear()
    load_data("mixed", 2, tmp_path, sets, size=9)
    assert [message.split(": ", 1)[1] for message in caplog.messages] == remarks, "from the cache"
