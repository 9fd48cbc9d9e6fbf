"""Files that are written whole or not at all, and the hash that identifies their content."""

import contextlib
import hashlib
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any

from marginbench.methods.errors import MarginbenchError, ParameterError


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no spaces) of a value, as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class UnwritableError(MarginbenchError):
    """A full disk, or a folder without permission: not the fault of the run that wanted to write."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to disk, rename it.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    if path.is_dir():
        raise UnwritableError(f"{path}: is a folder; a file is needed")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # containers may share a pid
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UnwritableError(f"{path}: cannot be written ({error.strerror})") from None


def placeholder(path: Path) -> str | None:
    """What lies in the place of the file that was meant, if so: nothing, a Git LFS pointer, a web page, a part."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return "is empty: copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull`"
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself: download the file"
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return "is cut off: copy or download it again"
    return None


def ensure_writable(folder: Path, parameter: str = "out") -> None:
    """Make the folder, and a file in it.

    Raises:
        ParameterError: that fails; callers take the folder by the name `parameter`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made ({error.strerror}); choose another folder"
        raise ParameterError(parameter, str(folder), problem) from None
    probe = folder / ".writable"
    try:
        write_atomically(probe, b"")
    except UnwritableError as error:
        problem = f"{str(error).removeprefix(f'{probe}: ')}; choose another folder"
        raise ParameterError(parameter, str(folder), problem) from None
    probe.unlink(missing_ok=True)  # another process may do the same


def ensure_file_writable(path: Path, parameter: str = "output") -> None:
    """Find out before a long computation whether its file can be written, and make its folder.

    Raises:
        ParameterError: it cannot; callers take the file by the name `parameter`.
    """
    if path.is_dir():
        raise ParameterError(parameter, str(path), "is a folder; a file is needed")
    ensure_writable(path.parent, parameter)
