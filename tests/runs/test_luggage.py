"""Plug-ins travel whole: to another folder they come with their content, in the same layout, or not at all."""

import shutil
from pathlib import Path

import pytest

from marginbench.benchmarks import run_all
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.runs import luggage
from marginbench.benchmarks.runs.luggage import pack
from marginbench.methods import MarginbenchError
from marginbench.methods.userfile import load_function

PLUGIN = """
from pathlib import Path
import pack_l.inner
import late_l

HERE = Path(__file__).parent
PLACES = "k.json", "data/../k.json", "../beside/k.json", "../../{above}/plug/k.json"

def make():
    return [(HERE / place).read_text() for place in PLACES], pack_l.inner.X, late_l.X
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "plug"
    for name, text in {
        "plug/mine.py": PLUGIN.replace("{above}", tmp_path.name),
        "plug/late_l.py": "X = 1\n",
        "plug/pack_l/inner.py": "X = 2\n",
        "plug/k.json": "3",
        "plug/data/unnamed.json": "4",
        "beside/k.json": "5",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return folder / "mine.py"


def test_what_arrives_is_what_was_sent(plugin: Path, tmp_path: Path) -> None:
    """Paths that climb above the folder and come back stay inside the new one."""
    sent = load_function(f"{plugin}:make", "model")
    wanted, packed = sent.function(), pack(plugin)
    new = tmp_path / "a" / "b" / "c"
    arrived = packed.unpack(new)
    assert new in arrived.parents and not [file for file in (tmp_path / "a").rglob("*.*") if new not in file.parents]
    assert not list(new.rglob("unnamed.json")) and len(list(new.rglob("k.json"))) == 2
    shutil.rmtree(tmp_path / "plug")
    shutil.rmtree(tmp_path / "beside")
    there = load_function(f"{arrived}:make", "model")
    assert there.source == sent.source
    assert there.function() == wanted == (["3", "3", "5", "3"], 2, 1)


def test_what_cannot_travel_is_refused_with_its_path(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (plugin.parent / "k.json").open("wb") as file:
        file.truncate(luggage.LARGEST + 1)
    with pytest.raises(
        MarginbenchError, match=r"^plug-in .*mine\.py: .* 16\.0 MiB, most of it in .*k\.json; at most 16 MiB"
    ) as error:
        pack(plugin)
    assert "\n" not in str(error.value)
    opened = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file.suffix == ".json":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file)

    (plugin.parent / "k.json").write_text("3")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(MarginbenchError, match=r"^plug-in .*mine\.py: .*k\.json cannot be read \(Permission denied\)"):
        pack(plugin)


def test_it_is_refused_before_a_cluster_is_asked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_plugin(write_template("mine_l", tmp_path))
    monkeypatch.setattr(luggage, "LARGEST", 9)
    with pytest.raises(MarginbenchError, match=r"^plug-in .*mine_l\.py: .* at most 0 MiB travel"):
        run_all(str(tiny), ["mine_l"], 1, "cpu", tmp_path / "out", scheduler="nowhere.json")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
