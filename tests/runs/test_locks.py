"""Processes on one folder share its runs; a lock ends with its process."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_for

from marginbench.benchmarks.runs import locks
from marginbench.benchmarks.runs.locks import holder, holders, lock
from marginbench.methods import MarginbenchError

HOLD = """
import sys
from pathlib import Path
from marginbench.benchmarks.runs.locks import lock
with lock(Path(sys.argv[1]), "run", "ce", 2) as got:
    print(got, flush=True)
    sys.stdin.read()  # until its parent is gone
"""


def test_one_process_gets_the_run_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            with lock(tmp_path, "run", "ce", 2) as got, lock(tmp_path, "another", "ce", 3) as mine:
                assert not got and mine
                held = holders(tmp_path)
                assert held["run"].pid == other.pid and held["another"].pid == os.getpid()
                assert (held["run"].method, held["run"].repetition) == ("ce", 2)
            assert set(holders(tmp_path)) == {"run"}
        finally:
            other.kill()
        wait_for(lambda: holder(tmp_path / "run.lock") is None)
        assert other.returncode is None, "nobody has waited for it: it is a zombie"
        assert (tmp_path / "run.lock").exists()
        with lock(tmp_path, "run", "ce", 2) as got:
            assert got and holders(tmp_path)["run"].pid == os.getpid()
        assert [path.name for path in tmp_path.iterdir()] == []


def test_on_another_machine_silence_makes_it_void(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_text('{"host": "elsewhere", "pid": 1, "method": "ce", "repetition": 0, "since": 5}')
    assert holder(path) == locks.Holder("elsewhere", 1, "ce", 0, 5, path.stat().st_mtime)
    before = time.time() - locks.STALE - 1
    os.utime(path, (before, before))
    assert holder(path) is None


def test_a_process_that_has_got_the_number_of_a_dead_one_does_not_hold_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with lock(tmp_path, "run", "ce", 0):
        mine = json.loads(path.read_text())
    for born, held in ((mine["born"], True), (mine["born"] - 1, False), (0, True)):  # 0: not known, as in older files
        path.write_text(json.dumps({**mine, "born": born}))
        assert (holder(path) is not None) == held


def test_a_container_of_the_same_host_name_knows_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here has the number of that process, and nobody may: only silence tells."""
    path = tmp_path / "run.lock"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    for name in ("ours", "theirs"):
        (tmp_path / name).symlink_to(f"pid:[{name}]")
    monkeypatch.setattr(locks, "SPACE", tmp_path / "ours")
    with lock(tmp_path, "run", "ce", 0):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": int(gone.stdout)}))
        assert holder(path) is None
        monkeypatch.setattr(locks, "SPACE", tmp_path / "theirs")
        assert holder(path) is not None
        monkeypatch.setattr(locks, "BOOT", tmp_path / "not on Linux")
        assert locks._numbers() == ""


def test_a_lock_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it writes one holds nothing."""
    path, real = tmp_path / "run.lock", os.link

    def link(whole: Path, target: Path) -> None:
        assert target == path and not path.exists() and json.loads(whole.read_text())["method"] == "ce"
        real(whole, target)

    monkeypatch.setattr(os, "link", link)
    with lock(tmp_path, "run", "ce", 0) as got:
        assert got and [found.name for found in tmp_path.iterdir()] == ["run.lock"]


def test_file_systems_without_links_have_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with lock(tmp_path, "run", "ce", 0) as got, lock(tmp_path, "run", "ce", 0) as again:
        assert got and not again and holders(tmp_path)["run"].pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_half_written_is_believed_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_text('{"host":')
    assert holder(path) is not None
    before = time.time() - locks.STALE - 1
    os.utime(path, (before, before))
    with lock(tmp_path, "run", "ce", 0) as got:
        assert got


def test_a_lock_in_use_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with lock(tmp_path, "run", "ce", 0):
        os.utime(tmp_path / "run.lock", (0, 0))
        wait_for(lambda: (tmp_path / "run.lock").stat().st_mtime > 0)
        assert holder(tmp_path / "run.lock") is not None


def test_a_lock_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), lock(tmp_path, "run", "ce", 0):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(MarginbenchError, match=r"gone/run\.lock: cannot be written"),
        lock(tmp_path / "gone", "run", "ce", 0),
    ):
        pass


def test_who_holds_the_runs_of_a_folder_is_found_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with this machine's clock: it may differ from that of the file system, from which both times are."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("time.time", lambda: 0.0)
    with lock(tmp_path, "run", "ce", 0):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", refuse)
            found = holders(tmp_path)["run"]
            with pytest.raises(MarginbenchError, match="cannot be written"), lock(tmp_path, "run", "ce", 0):
                pass
        assert found.together == 1, "as also of a lock that an older version has written"
        assert 0.0 < found.since <= found.touched == (tmp_path / "run.lock").stat().st_mtime
