"""What editable installs hide: a folder left out of the wheel, a file left out of a package."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.data.scan import TRANSFORMS

ROOT = Path(__file__).parents[1]
LEFT_OUT = "marginbench.benchmarks.speed"  # scripts for a checkout


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "marginbench." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("methods", "benchmarks")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found - {LEFT_OUT} == set(settings["packages"])
    assert LEFT_OUT in found


def imports(source: str, package: str) -> Iterator[str]:
    """Full names of the modules that a module of `package` imports, and of what it takes from them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_left_out(name: str) -> bool:
    return f"{name}.".startswith(f"{LEFT_OUT}.")


def test_nothing_imports_what_the_wheel_leaves_out() -> None:
    for top in ("methods", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            package = "marginbench." + ".".join(path.parent.relative_to(ROOT).parts)
            if not is_left_out(package):
                assert not list(filter(is_left_out, imports(path.read_text(), package))), path


@pytest.mark.parametrize(
    "source",
    [
        "import marginbench.benchmarks.speed",
        "import marginbench.benchmarks.speed.steps as steps",
        "from marginbench.benchmarks import speed",
        "def late():\n    from marginbench.benchmarks.speed.turns import noise",
        "from ..speed import turns",
        "from .. import speed",
    ],
)
def test_such_an_import_is_seen(source: str) -> None:
    assert any(map(is_left_out, imports(source, "marginbench.benchmarks.tables")))
    assert not any(map(is_left_out, imports(source.replace("speed", "speedy"), "marginbench.benchmarks.tables")))


def test_methods_never_import_benchmarks() -> None:
    for path in (ROOT / "methods").rglob("*.py"):
        assert "marginbench.benchmarks" not in path.read_text(), path


def test_no_other_file_names_a_method() -> None:
    """Adding a method edits no other file: outside its own file, only suites and `ce` as the baseline name one.

    Some methods share the name of a certificate, whose bound they train on, or of a transform.
    """
    files = [path for path in (ROOT / "methods").glob("*/[a-z]*.py") if path.parent.name != "maths"]
    keys = {path.stem for path in files} - {"ce"} - set(CERTIFICATES) - set(TRANSFORMS)
    for path in (ROOT / "benchmarks").rglob("*.py"):
        text = path.read_text()
        for key in keys:
            assert f'"{key}"' not in text, f"{path} names the method {key}"
