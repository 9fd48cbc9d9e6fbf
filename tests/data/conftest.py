"""Fixture of the tests of the data."""

from pathlib import Path

import pytest


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """The data folder of the tests, empty."""
    return tmp_path / "sets"
