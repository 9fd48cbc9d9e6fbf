"""Records that all tests of figures draw."""

from pathlib import Path

import pytest
from figure_support import a_board


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with five rows of three seeds and one of two."""
    return a_board(tmp_path_factory.mktemp("board"))
