"""How much memory there is: the narrowest of all limits counts."""

from pathlib import Path

import pytest

from marginbench.benchmarks.machine import budget
from marginbench.benchmarks.machine.budget import CLEARANCE, FLOOR, SPACE, available, gigabytes, limited, parse_size
from marginbench.methods.errors import ParameterError

GB = 10**9


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * GB),
        ("1.5 gb", 1_500_000_000),
        ("2GiB", 2**31),
        (3 * GB, 3 * GB),
        ("2000MB", 2 * GB),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "4 G", "-1GB", "", "500MB", "4", True])
def test_what_is_no_size_or_too_small_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"^memory=.*(must be a size|must be at least 1 GB)"):
        parse_size(text)


def test_bytes_in_words() -> None:
    assert [gigabytes(size) for size in (4e7, 7.24e8, 3.24e9, 2.41e10)] == ["0.04 GB", "0.72 GB", "3.2 GB", "24 GB"]


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with 100 GB free, where this process holds 2 GB and no limit applies."""
    monkeypatch.setattr(budget, "_free", lambda: 100 * GB)
    monkeypatch.setattr(budget, "_status", lambda: {"VmRSS": 2 * GB, "VmSize": 10 * GB, "VmData": 3 * GB})
    monkeypatch.setattr(budget, "_control_groups", lambda: iter(()))
    monkeypatch.setattr(budget, "_resource_limits", lambda: iter(()))
    return monkeypatch


def test_a_tenth_of_what_is_free_is_left_to_others(plenty: pytest.MonkeyPatch) -> None:
    assert available() == 90 * GB


def test_what_the_process_holds_counts_under_a_limit_of_its_own(plenty: pytest.MonkeyPatch) -> None:
    with limited(5 * GB):
        assert available() == 2.7 * GB
        with limited(None):
            assert available() == 2.7 * GB
        with limited(1 * GB):
            assert available() == FLOOR, "less than it holds already"
        with limited(2 * GB + 2**29):
            assert available() == 2**29 - CLEARANCE
    assert available() == 90 * GB


def test_limits_of_the_process_and_its_groups(plenty: pytest.MonkeyPatch) -> None:
    plenty.setattr(budget, "_resource_limits", lambda: iter([("VmSize", 40 * GB), ("VmData", 30 * GB)]))
    assert available() == pytest.approx(0.9 * (27 * GB - SPACE))
    plenty.setattr(budget, "_control_groups", lambda: iter([50 * GB, 20 * GB]))
    assert available() == pytest.approx(0.9 * 20 * GB)


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    """From the group of the process up: a limit further up holds as well."""

    def write(folder: Path, **files: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    two, one, groups = tmp_path / "two", tmp_path / "one", tmp_path / "groups"
    write(two / "a", memory__max="1000\n", memory__current="700\n", memory__stat="anon 1\ninactive_file 100\n")
    write(two / "a" / "b", memory__max="max\n", memory__current="600\n", memory__stat="")
    groups.write_text("0::/a/b\n")
    assert [*budget._control_groups(two, groups)] == [400]
    stat = "inactive_file 1\ntotal_inactive_file 50\n"
    write(one / "memory" / "job", memory__limit_in_bytes="500", memory__usage_in_bytes="300", memory__stat=stat)
    write(one / "memory", memory__limit_in_bytes="900", memory__usage_in_bytes="100", memory__stat=stat)
    groups.write_text("7:cpu,cpuacct:/job\n5:memory:/job\n")
    assert [*budget._control_groups(one, groups)] == [250, 850]
    assert [*budget._control_groups(one, tmp_path / "none")] == []


def test_this_process_is_read() -> None:
    status = budget._status()
    assert 0 < status["VmRSS"] < status["VmSize"] and FLOOR <= available() < 10**15
