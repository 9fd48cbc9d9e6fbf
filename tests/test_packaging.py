"""What editable installs hide: a folder left out of the wheel, a file left out of a package."""

import tomllib
from pathlib import Path

from marginbench.benchmarks.certificates.listed import CERTIFICATES
from marginbench.benchmarks.data.augment import TRANSFORMS

ROOT = Path(__file__).parents[1]


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "marginbench." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("methods", "benchmarks")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(settings["packages"])


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
