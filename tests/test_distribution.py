"""The options of tox.ini: a test that takes its process down fails once, and the others are done."""

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

from processes import SAFETY

TREE = """
import os
import pytest

@pytest.mark.parametrize("number", range(12))
def test_of_a_group(number):
    if number in (3, 8):
        os._exit(1)
"""


def test_a_test_that_kills_its_process_does_not_end_the_run(tmp_path: Path) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(Path(__file__).parents[1] / "tox.ini")
    words = shlex.split(tox["testenv"]["commands"])
    options = words[1 : words.index("{posargs}")]
    assert words[0] == "pytest" and "-n" in options
    assert not {"loadgroup", "loadscope", "loadfile"} & set(options), "they run such a test again, then hang or stop"
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_tree.py").write_text(TREE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=SAFETY
    )
    assert "2 failed, 10 passed" in done.stdout.splitlines()[-1], done.stdout
    assert done.returncode == 1
