"""The one loader of users' files: what it executes, under which name, and how it tells of an error."""

import hashlib
import importlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from marginbench.methods import MarginbenchError
from marginbench.methods.userfile import forget_user_file, load_function, load_user_file, module_source, user_code


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


DATACLASS = """from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Point:
    x: int = 1
"""


def test_dataclasses_and_pickle_find_the_module(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", DATACLASS)
    point = load_user_file(path, "attack").Point(2)
    assert pickle.loads(pickle.dumps(point)) == point
    code = (
        "import pickle, sys; from marginbench.methods.userfile import load_user_file;"
        f"load_user_file({str(path)!r}, 'attack'); print(pickle.loads(bytes.fromhex({pickle.dumps(point).hex()!r})).x)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "2\n"  # another process that loads the file has the same module


def test_a_file_is_executed_once_until_it_is_edited_or_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "things = [1]\n")
    first = load_user_file(str(path), "plug-in")
    assert load_user_file(path, "attack") is first
    write(path, "things = [2]\n")  # same size, and perhaps same time: cached bytecode would be the old one
    second = load_user_file(path, "plug-in")
    assert (first.things, second.things) == ([1], [2])
    forget_user_file(path)
    assert load_user_file(path, "plug-in") is not second
    assert not (tmp_path / "__pycache__").exists()


def test_one_content_in_two_folders_is_two_modules(tmp_path: Path) -> None:
    one, two = (load_user_file(write(tmp_path / f / "mine.py", "x = 1\n"), "model") for f in "ab")
    assert one.__name__ != two.__name__


def test_each_file_imports_the_neighbours_of_its_own_folder(tmp_path: Path) -> None:
    text = "import neighbour_n, pack_n.inner\nnumbers = neighbour_n.X, pack_n.inner.X\ndef late():\n    import late_n\n"
    for folder, number in (("a", 1), ("b", 2), ("a", 1)):
        for name in ("neighbour_n.py", "pack_n/__init__.py", "pack_n/inner.py", "late_n.py"):
            write(tmp_path / folder / name, f"X = {number}\n")
        path = write(tmp_path / folder / "mine.py", text)
        forget_user_file(path)
        module = load_user_file(path, "model")
        assert module.numbers == (number, number)
        with pytest.raises(ModuleNotFoundError):
            module.late()
        with user_code(path, "model"):
            module.late()
        assert number == sys.modules["late_n"].X and str(path.parent) not in sys.path


BROKEN = {
    "x = 1\n\ny = foo\n": "plug-in {}, line 3: NameError: name 'foo' is not defined",
    "def f():\n    return 1 / 0\nf()\n": "plug-in {}, line 2: ZeroDivisionError: division by zero",
    "x = 1\ndef f(:\n": "plug-in {}, line 2: SyntaxError: invalid syntax",
    "import sys\nsys.exit(3)\n": "plug-in {}, line 2: SystemExit: 3",
    "import json\njson.loads('{{')\n": "plug-in {}, line 2: JSONDecodeError: Expecting property name",
    "\nimport broken_n\n": "plug-in {}, line 2 (broken_n.py, line 4): NameError",
    "\nimport typo_n\n": "plug-in {}, line 2 (typo_n.py, line 1): SyntaxError",
    "import marginbench.methods as m\nraise m.MarginbenchError('bad key')\n": "plug-in {}, line 2: bad key",
    "x = '\0'\n": "plug-in {}",
}


@pytest.mark.parametrize("text", BROKEN)
def test_an_error_names_the_file_and_the_line(tmp_path: Path, text: str) -> None:
    write(tmp_path / "broken_n.py", "\n\n\nfoo\n")
    write(tmp_path / "typo_n.py", "def f(:\n")
    path, loaded = write(tmp_path / "mine.py", text), set(sys.modules)
    with pytest.raises(MarginbenchError) as error:
        load_user_file(path, "plug-in")
    assert str(error.value).startswith(BROKEN[text].format(path)) and "\n" not in str(error.value)
    assert not [name for name in set(sys.modules) - loaded if "mine" in name], "half a module must not stay"


def test_an_error_is_not_wrapped_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "")
    with pytest.raises(MarginbenchError, match=r"^class A in .*mine\.py: no info$"), user_code(path, "plug-in"):
        raise MarginbenchError(f"class A in {path}: no info")


def test_a_function_is_named_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "from math import sqrt\nCONSTANT = 1\ndef make_net(): return 7\n")
    function, found, _ = load_function(f"{path}:make_net", "network")
    assert function() == 7 and found == path
    cases = {
        f"{path}:make_ne": r"network .*py: no function or class 'make_ne': did you mean 'make_net'\? known: make_net$",
        f"{path}:CONSTANT": "no function or class 'CONSTANT'",
        str(path): "write FILE.py:NAME, as in my_network.py:make",
        f"{path}:": "write FILE.py:NAME",
        f"{tmp_path}/none.py:make": "network .*none.py: no such file",
    }
    for spec, words in cases.items():
        with pytest.raises(MarginbenchError, match=words):
            load_function(spec, "network")
    with pytest.raises(MarginbenchError, match=r"its name must end in \.py"):
        load_user_file(tmp_path, "plug-in")


def source(path: Path) -> str:
    return load_function(f"{path}:make", "model").source


def test_the_source_is_what_was_executed_with_the_neighbours_that_it_imports(tmp_path: Path) -> None:
    alone = write(tmp_path / "alone.py", "make = dict\n")
    assert source(alone) == hashlib.sha256(b"make = dict\n").hexdigest()
    write(tmp_path / "unrelated_n.py", "X = 1\n")
    write(tmp_path / "first_n.py", "from pack_m import second_n\nX = second_n.X\n")
    write(tmp_path / "pack_m/__init__.py", "")
    write(tmp_path / "pack_m/second_n.py", "from . import third_n\nfrom .third_n import X\n")
    write(tmp_path / "pack_m/third_n.py", "X = 1\n")
    write(tmp_path / "late_m.py", "X = 1\n")
    path = write(tmp_path / "mine.py", "import first_n\ndef make():\n    import late_m\n    return first_n.X\n")
    before = source(path)
    write(tmp_path / "unrelated_n.py", "X = 2\n")
    assert source(path) == before and load_function(f"{path}:make", "model").function is not None
    seen = {before}
    for name in ("first_n.py", "pack_m/__init__.py", "pack_m/second_n.py", "pack_m/third_n.py", "late_m.py"):
        write(tmp_path / name, (tmp_path / name).read_text() + "# edited\n")
        seen.add(source(path))
    assert len(seen) == 6
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    assert source(elsewhere / "mine.py") == source(path)


def test_the_source_of_an_imported_module_is_read_at_each_import_and_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the code that runs is the older one, whatever the file holds."""
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "imported_m.py", "from neighbour_m import X\nwrites = 'table.csv'\n")
    neighbour = write(tmp_path / "neighbour_m.py", "X = 1\n")
    module = importlib.import_module("imported_m")
    before = module_source("imported_m")
    write(path, path.read_text() + "# edited\n")
    write(tmp_path / "table.csv", "what it has written is no code")
    assert module_source("imported_m") == before
    importlib.reload(module)
    edited = module_source("imported_m")
    write(neighbour, "X = 2\n")
    importlib.reload(sys.modules["neighbour_m"])
    last = module_source("imported_m")
    assert len({before, edited, last}) == 3
    write(tmp_path / "table.csv", "written again")
    importlib.reload(module)
    assert module_source("imported_m") == last
    for name in ("imported_m", "neighbour_m"):
        del sys.modules[name]


def test_an_edited_neighbour_is_executed_again(tmp_path: Path) -> None:
    """Of the same size, and in the same second: cached bytecode would be the old one."""
    write(tmp_path / "inner_n.py", "X = 1\n")
    write(tmp_path / "outer_n.py", "from inner_n import X\n")
    path = write(tmp_path / "mine.py", "from outer_n import X\ndef make():\n    return X\n")
    for number in (1, 2, 3):
        write(tmp_path / "inner_n.py", f"X = {number}\n")
        assert load_function(f"{path}:make", "model").function() == number
    assert not (tmp_path / "__pycache__").exists()


READS = """
import json
from pathlib import Path

HERE = Path(__file__).parent

def make():
    \"\"\"{long}\"\"\"
    return json.loads((HERE / "constants/k.json").read_text()), "\\0", "", "/etc/passwd", "reads.py"
"""


def test_data_that_the_code_names_are_of_the_source(tmp_path: Path) -> None:
    path = write(tmp_path / "reads.py", READS.replace("{long}", "text " * 9999))
    assert source(path) == hashlib.sha256(path.read_bytes()).hexdigest(), "there are none yet"
    seen = set()
    for number in (1, 2):
        write(tmp_path / "constants/k.json", str(number))
        write(tmp_path / "other.json", str(number))
        assert load_function(f"{path}:make", "model").function()[0] == number
        seen.add(source(path))
        above = write(tmp_path / f"{number}/above.py", "import pack_r.inner\nmake = dict\n")
        write(above.parent / "pack_r/inner.py", "PLACE = '../../constants/k.json'\n")
        seen.add(source(above))
    assert len(seen) == 4
    write(tmp_path / "other.json", "3")
    assert source(path) in seen


def test_data_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = write(tmp_path / "reads.py", READS), Path.open
    write(tmp_path / "constants/k.json", "1")

    def refuse(file: Path, *args: Any, **kwargs: Any) -> Any:
        if file.suffix == ".json":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        MarginbenchError, match=r"^plug-in .*reads\.py: .*k\.json cannot be read \(Permission denied\)$"
    ):
        load_user_file(path, "plug-in")
