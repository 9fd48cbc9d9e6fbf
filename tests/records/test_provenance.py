"""The commit in a record is that of marginbench, and of nothing around it."""

import subprocess
from pathlib import Path

import pytest
import torch

from marginbench.benchmarks.records import provenance


def test_the_commit_of_another_repository_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a virtual environment inside the repository of somebody else, until they track the file."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    def commit() -> str | None:
        provenance._commit.cache_clear()
        return provenance.environment(torch.device("cpu")).commit

    installed = tmp_path / "marginbench" / "benchmarks" / "records" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    try:
        assert commit() is None
        git("add", ".")
        git("commit", "-q", "-m", "ours")
        assert len(commit() or "") == 12
    finally:
        provenance._commit.cache_clear()
