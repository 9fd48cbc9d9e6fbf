"""Plug-ins on their way to processes on other disks: with all that counts as their content, in the same layout."""

import os
from pathlib import Path
from typing import NamedTuple

from marginbench.methods import MarginbenchError
from marginbench.methods.usercontent import content

LARGEST = 16 * 2**20  # bytes: every run carries them


class Luggage(NamedTuple):
    """A plug-in."""

    plugin: str  # path of its file, from the folder that holds all of them
    files: tuple[tuple[str, bytes], ...]  # path from there, and what the file holds

    def unpack(self, folder: Path) -> Path:
        """Write the files to a new folder: where the plug-in is now."""
        for name, held in self.files:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(held)
        return folder / self.plugin


def pack(path: Path) -> Luggage:
    """A plug-in with the files that it imports from its folder, and the data that its code names.

    Args:
        path: resolved.

    Raises:
        MarginbenchError: one of them cannot be read, or they are larger than what should travel.
    """
    try:
        code, data = content(path, path.read_bytes())
        places = [*code, *data]
        sizes = {place.resolve(): place.stat().st_size for place in places}  # several paths may lead to one file
        size, largest = sum(sizes.values()), max(sizes, key=sizes.__getitem__)
        if size > LARGEST:
            raise MarginbenchError(
                f"plug-in {path}: it and the files that it imports or names hold {size / 2**20:.1f} MiB, most of it in"
                f" {os.path.relpath(largest, path.parent)}; at most {LARGEST // 2**20} MiB travel to the workers of a"
                " cluster: name large data by an absolute path that all workers see"
            )
        held = {real: real.read_bytes() for real in sizes}
    except OSError as error:
        raise MarginbenchError(
            f"plug-in {path}: {error.filename} cannot be read ({error.strerror}), to be sent to the workers"
        ) from None
    root = _root(path, places)
    files = tuple((place.relative_to(root).as_posix(), held[place.resolve()]) for place in places)
    return Luggage(path.relative_to(root).as_posix(), files)


def _root(path: Path, places: list[Path]) -> Path:
    """The folder above all that is passed through on the way from the plug-in: paths may climb and come back."""
    passed = {folder for place in places for folder in place.parents if folder.is_relative_to(path.parent)}
    return Path(os.path.commonpath([os.path.normpath(folder) for folder in passed]))
