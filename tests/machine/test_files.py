"""Files are written whole, whoever else writes them."""

import os
from pathlib import Path

import pytest

from marginbench.benchmarks.machine.files import write_atomically


def test_another_process_of_this_number_may_write_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers, in the middle of a write."""
    path, flush = tmp_path / "record.json", os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        write_atomically(path, b"the other")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomically(path, b"this one")
    assert path.read_bytes() == b"this one" and list(tmp_path.iterdir()) == [path]
