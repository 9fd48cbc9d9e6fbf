"""Things found by name."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from marginbench.benchmarks.machine.seeds import derive_seed
from marginbench.benchmarks.registry import Registry, import_all
from marginbench.methods import MarginbenchError
from marginbench.methods.userfile import USER_MODULE

MAKE = "def make():\n    pass\n"


@pytest.fixture(autouse=True)
def registries_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginbench.benchmarks.registry.REGISTRIES", [])


def module(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, source: str = MAKE) -> ModuleType:
    """A module of that name from a file with that source."""
    path.write_text(source)
    made = ModuleType(name)
    made.__file__ = str(path)
    exec(path.read_text(), vars(made))
    monkeypatch.setitem(sys.modules, name, made)
    return made


def test_a_name_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module("first", tmp_path / "first.py", monkeypatch)
    second = module("second", tmp_path / "second.py", monkeypatch)
    registry: Registry[object] = Registry()
    registry.add("mine", first.make)
    with pytest.raises(MarginbenchError, match=r"second\.py: the name 'mine' is already taken by .*first\.py"):
        registry.add("mine", second.make)
    again = module("first_again", tmp_path / "first.py", monkeypatch)
    registry.add("mine", again.make)
    assert registry.find("mine", "thing") is again.make


def test_the_built_in_thing_keeps_its_name_whichever_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = module("outside", tmp_path / "outside.py", monkeypatch)
    registry: Registry[object] = Registry()
    registry.add("mine", outside.make)
    with pytest.raises(MarginbenchError, match=r"outside\.py: the name 'mine' is already taken by .*seeds\.py"):
        registry.add("mine", derive_seed)


def test_an_unknown_name_is_answered_with_a_suggestion() -> None:
    registry: Registry[object] = Registry()
    registry.add("seed", derive_seed)
    with pytest.raises(MarginbenchError, match="unknown thing 'sed': did you mean 'seed'"):
        registry.find("sed", "thing")


def test_only_outside_files_have_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[object] = Registry()
    registry.add("built_in", derive_seed)
    path = tmp_path / "outside.py"
    registry.add("outside", 1, maker=module("outside", path, monkeypatch).make)
    assert registry.source("built_in") is None
    before = registry.source("outside")
    assert before == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    edited = module("outside_edited", path, monkeypatch, f"edited = True\n{MAKE}")  # as `load_user_file` has it
    registry.add("outside", 1, maker=edited.make)
    assert registry.source("outside") not in (None, before)


def test_a_file_gives_a_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "twice.py"
    first = module(f"{USER_MODULE}twice", path, monkeypatch, f"{MAKE}first = make\n{MAKE}")
    registry: Registry[object] = Registry()
    registry.add("mine", first.first)
    with pytest.raises(MarginbenchError, match=r"twice\.py: the name 'mine' is given twice, in lines 1 and 4"):
        registry.add("mine", first.make)
    registry.add("mine", first.first)  # executed again
    assert registry.find("mine", "thing") is first.first


def test_a_class_has_the_line_of_its_first_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = "class A:\n    def f(self): ...\nclass B:\n    def f(self): ...\n"
    made = module(f"{USER_MODULE}kinds", tmp_path / "kinds.py", monkeypatch, kinds)
    registry: Registry[object] = Registry()
    registry.add("mine", made.A)
    with pytest.raises(MarginbenchError, match="in lines 2 and 4"):
        registry.add("mine", made.B)


def test_a_package_may_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[object] = Registry()
    for source in (MAKE, f"\n{MAKE}"):
        made = module("a_package", tmp_path / "a_package.py", monkeypatch, source)
        registry.add("mine", made.make)
    assert registry.find("mine", "thing") is made.make


def test_a_notebook_may_define_a_thing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", cell)
    registry: Registry[object] = Registry()
    sources: list[str | None] = []
    for source in (MAKE, f"\n{MAKE}"):
        exec(source, vars(cell))
        registry.add("mine", cell.make)
        sources.append(registry.source("mine"))
    assert registry.find("mine", "thing") is cell.make
    assert sources[0] == sources[1] is not None
    vars(cell)["helper"] = lambda: 2
    exec("def make(): return helper()", vars(cell))
    registry.add("mine", cell.make)
    before = registry.source("mine")
    exec("def helper(): return 3", vars(cell))
    assert registry.source("mine") not in (before, sources[0]), "in a cell of its own"


def test_a_reserved_name_is_refused() -> None:
    registry: Registry[object] = Registry(reserved=["seed"])
    with pytest.raises(MarginbenchError, match=r"seeds\.py: the name 'seed' is reserved"):
        registry.add("seed", derive_seed)
    assert not registry


def test_what_a_plugin_added_is_known_and_can_be_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[object] = Registry()
    registry.add("built_in", derive_seed)
    registry.add("outside", module("plugin_x", tmp_path / "x.py", monkeypatch).make)
    assert (registry.added_by("plugin_x"), registry.added_by("plugin_y")) == (["outside"], [])
    registry.forget("plugin_")
    assert list(registry) == ["built_in"]


def test_all_modules_of_a_package_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "some_package"
    folder.mkdir()
    for name in ("__init__", "a", "b"):
        (folder / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import_all("some_package")
    assert {"some_package.a", "some_package.b"} <= set(sys.modules)
    for name in ("some_package", "some_package.a", "some_package.b"):
        monkeypatch.delitem(sys.modules, name)
