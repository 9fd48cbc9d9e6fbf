"""Image folders: decoded once into a cache of uint8 arrays, which are memory-mapped from then on."""

import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marginbench.benchmarks.data.arrays import Arrays, hashed_order
from marginbench.benchmarks.data.images import read_header, read_image
from marginbench.benchmarks.data.scaling import Size, default_size, enlarged, of_files, taken
from marginbench.benchmarks.machine.device import cores
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, Problems

log = logging.getLogger(__name__)

Samples = list[tuple[str, int]]  # path and label of each image

READING = b"5"  # of the rules by which files are read: a cache made by others is not used
HASHED = 2**27  # bytes of the files, about, that are hashed at each call
BLOCK = 1024  # images decoded at a time
PROGRESS = 10.0  # seconds between two messages
ABOUT = "about.json"  # in a cache


@dataclass(frozen=True)
class _Files:
    """What the files of a folder say of themselves. It stands in each cache, of whatever size."""

    channels: int
    sizes: Mapping[Size, int]  # how many there are of each
    remarks: Sequence[str] = ()  # on how they were decoded

    def write(self, cache: Path) -> None:
        sizes = [[*sides, count] for sides, count in sorted(self.sizes.items())]
        content = {"channels": self.channels, "sizes": sizes, "remarks": self.remarks}
        (cache / ABOUT).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def read(cls, cache: Path) -> "_Files":
        content = json.loads((cache / ABOUT).read_text(encoding="utf-8"))
        sizes = {(width, height): count for width, height, count in content["sizes"]}
        return cls(content["channels"], sizes, content["remarks"])


def read_folder(place: Path, data_dir: Path, size: int | None = None) -> Arrays:
    """Images of `place`/train and `place`/test (or val), [N, C, size, size], from their cache in `data_dir`.

    C is 1 where all images are grey, else 3. See `images.py` for how a file is read, and which are refused. The cache's
    name holds a hash of the folder and its files, see `_key`: changed folders are decoded again.
    Both parts are stored in a hashed order: they are listed by class, so the first test images would be of one class.
    What there is to remark is logged at each call, whether the images are decoded or come from the cache.

    Args:
        size: default: see `scaling.default_size`.

    Raises:
        MarginbenchError: missing parts, classes that differ, an image that cannot be read, or no room for the cache.
    """
    place = place.resolve()
    listed = _list(place)
    _say_order(place, listed)
    _say_what_is_left_out(place, listed)
    cache = _cache(place, listed, data_dir, size)
    with _readable(cache, place):
        files = _Files.read(cache)
        arrays = {path.stem: np.load(path, mmap_mode="c") for path in cache.glob("*.npy")}
        digests = {part: arrays.pop(f"sha256_{part}") for part in listed}
        found = Arrays(**arrays, digests=digests, files=of_files(files.sizes))
    for remark in (*files.remarks, enlarged(files.sizes, found.x_train.shape[-1])):
        if remark:
            log.warning("image folder %s: %s", place, remark)
    if size is None and (remark := taken(files.sizes)):
        log.info("image folder %s: %s", place, remark)
    return found


@contextmanager
def _readable(cache: Path, place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise MarginbenchError(f"{cache}: not a readable cache of {place} ({error}); delete it") from None


def _cache(place: Path, listed: dict[str, Samples], data_dir: Path, size: int | None) -> Path:
    """The cache of this size, made where there is none; a cache of another size says what is the default."""
    ending = _key(place, [Path(path) for samples in listed.values() for path, _ in samples])[:12]
    if size is not None and (cache := data_dir / f"{place.name}-{size}-{ending}").is_dir():
        return cache
    made = sorted(data_dir.glob(f"{glob.escape(place.name)}-*-{ending}"))
    if made:
        with _readable(made[0], place):
            files = _Files.read(made[0])
    else:
        files = _look(listed)
    side = default_size(files.sizes) if size is None else size
    cache = data_dir / f"{place.name}-{side}-{ending}"
    if not cache.is_dir():
        _make_room(data_dir, sum(map(len, listed.values())) * files.channels * side**2, place)
        _make_cache(cache, place, listed, (files.channels, side, side))
    return cache


def _key(place: Path, paths: Sequence[Path]) -> str:
    """SHA-256 of the folder, of what the system says of all its files, and of contents.

    Size and time of modification do not tell files apart: archives give one time to all, and images that are not
    compressed have one size. The time of change cannot be set, but some file systems have none of their own. Contents
    are sure, and of a large folder too slow to read: every n-th file stands for the others.
    """
    key = hashlib.sha256(READING + bytes(place))
    size = 0
    for path in paths:
        with suppress(OSError):  # as below: a link may lead nowhere
            fact = path.stat()
            size += fact.st_size
            own = f"{path.relative_to(place)} {fact.st_size} {fact.st_mtime_ns} {fact.st_ctime_ns}\n"
            key.update(own.encode(errors="surrogateescape"))
    for path in paths[:: 1 + size // HASHED]:
        with suppress(OSError):  # told with all others when it is decoded
            key.update(hashlib.sha256(path.read_bytes()).digest())
    return key.hexdigest()


def _look(listed: dict[str, Samples]) -> _Files:
    """From the headers alone, and only until colours and a second size were seen: further files change nothing."""
    sizes: Counter[Size] = Counter()
    grey = True
    for path in (path for samples in listed.values() for path, _ in samples):
        with suppress(MarginbenchError):  # told with all others when it is decoded
            header = read_header(path)
            sizes[header.size] += 1
            grey = grey and header.is_grey
        if not grey and len(sizes) > 1:
            break
    return _Files(1 if grey else 3, sizes)


def _list(place: Path) -> dict[str, Samples]:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    def is_image(path: str) -> bool:
        return path.lower().endswith(IMG_EXTENSIONS) and not _is_hidden(path, place)

    test = "test" if (place / "test").is_dir() else "val"
    folders = {"train": place / "train", "test": place / test}
    try:
        classes = {part: _classes(folder, place) for part, folder in folders.items()}
        listed = {
            part: make_dataset(str(folder), classes[part], is_valid_file=is_image) for part, folder in folders.items()
        }
    except FileNotFoundError as error:
        needs = "it needs train and test (or val), each with one folder of images per class"
        raise MarginbenchError(f"image folder {place}: {str(error).rstrip('. ')}; {needs}") from None
    differ = classes["train"].keys() ^ classes["test"].keys()
    if differ:
        raise MarginbenchError(f"image folder {place}: class {min(differ)!r} is in one of train and {test} only")
    return listed


def _classes(folder: Path, place: Path) -> dict[str, int]:
    """The labels of the classes by name.

    Raises:
        FileNotFoundError: there is no class.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(str(path), place))
    if not names:
        raise FileNotFoundError(f"no folder of a class in {folder}")
    return {name: label for label, name in enumerate(names)}


def _is_hidden(path: str, place: Path) -> bool:
    """As what macOS keeps beside an image, under its name with `._` before it, or in a folder of its own in an archive,
    and Jupyter in a folder.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in Path(path).relative_to(place).parts)


def _say_order(place: Path, listed: dict[str, Samples]) -> None:
    """Names that are numbers are put in the order of their letters, as all others, so labels are not these numbers."""
    names = {label: Path(path).parent.name for path, label in listed["train"]}
    if all(name.isdecimal() for name in names.values()):
        moved = [(name, label) for label, name in sorted(names.items()) if int(name) != label]
        if len(names) > 1 and moved:
            first = "class folders are numbered in the order of their names, so that {!r} is class {}".format(*moved[0])
            log.warning("image folder %s: %s", place, first)


def _say_what_is_left_out(place: Path, listed: dict[str, Samples]) -> None:
    """Files in the folders of the classes that are not images by their names: looked for each time, not in the key."""
    for part, samples in listed.items():
        used = {path for path, _ in samples}
        top = str(place / Path(samples[0][0]).relative_to(place).parts[0])
        below = ((folder, names) for folder, _, names in os.walk(top, followlinks=True) if folder != top)
        files = (f"{folder}{os.sep}{name}" for folder, names in below for name in names)
        rest = sorted(file for file in files if file not in used and not _is_hidden(file, place))
        if rest:
            kinds = ", ".join(sorted({Path(file).suffix or Path(file).name for file in rest}))
            text = f"left out of {part}, being no images by their names: {len(rest)} ({kinds}), such as {rest[0]}"
            log.warning("image folder %s: %s", place, text)


def _make_room(data_dir: Path, needed: int, place: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError("data_dir", str(data_dir), f"{error.strerror}; choose another folder") from None
    free = shutil.disk_usage(data_dir).free
    if needed > free:
        problem = (
            f"the decoded images of {place} need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; choose a smaller"
            " data.size, or another folder"
        )
        raise ParameterError("data_dir", str(data_dir), problem)


def _make_cache(cache: Path, place: Path, listed: dict[str, Samples], shape: tuple[int, int, int]) -> None:
    """Decode into a folder of another name, so that an interrupted cache is never taken for a complete one."""
    partial = cache.with_name(f".{cache.name}-{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        problems = Problems(f"image folder {place}")
        sizes: Counter[Size] = Counter()
        remarks: list[str] = []
        for part, samples in listed.items():
            order = hashed_order("validation" if part == "train" else "test", len(samples))
            found, told = _decode(partial, part, [samples[i] for i in order], shape, problems)
            sizes += found
            remarks += [f"{told[text]} of {len(samples)} {part} images: {text}" for text in sorted(told) if text]
        problems.report()
        _Files(shape[0], sizes, remarks).write(partial)
        try:
            partial.rename(cache)
        except OSError:
            if not cache.is_dir():  # else another process has made it in the meantime
                raise
    except OSError as error:
        problem = f"{cache} cannot be written ({error}); choose another folder"
        raise ParameterError("data_dir", str(cache.parent), problem) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode(
    folder: Path, part: str, samples: Samples, shape: tuple[int, int, int], problems: Problems
) -> tuple[Counter[Size], Counter[str]]:
    """Decode one part, and count the sizes of its files and the remarks on them.

    Images that cannot be read are left out, and collected with those of the other part.
    """
    images = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.uint8, (len(samples), *shape))
    sizes: Counter[Size] = Counter()
    remarks: Counter[str] = Counter()
    digests = np.empty((len(samples), 32), np.uint8)
    reported = time.monotonic()
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(samples), BLOCK):
            paths = [path for path, _ in samples[start : start + BLOCK]]
            reading = [pool.submit(read_image, path, shape) for path in paths]
            for row, image in enumerate(reading, start):
                with problems.collected():
                    images[row], size, remark = image.result()
                    sizes[size] += 1
                    remarks[remark] += 1
                    digests[row] = np.frombuffer(hashlib.sha256(images[row].data).digest(), np.uint8)
            if time.monotonic() - reported > PROGRESS:
                reported = time.monotonic()
                done = f"{start + len(paths)} of {len(samples)} {part} images{problems.so_far()}"
                log.info("decoding into %s: %s", folder.parent, done)
    images.flush()
    np.save(folder / f"y_{part}.npy", np.array([label for _, label in samples], np.int64))
    np.save(folder / f"sha256_{part}.npy", digests)
    return sizes, remarks
