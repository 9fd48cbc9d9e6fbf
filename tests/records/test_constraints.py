"""`marginbench freeze`: the versions of an environment, or of records, in the words of pip and uv."""

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from made import ENVIRONMENT, a_record
from support import Run

from marginbench.benchmarks.records.constraints import constraints
from marginbench.benchmarks.records.record import write_record

VERSIONS = {"marginbench": "0.2.0", "numpy": "2.4.6", "torch": "2.15.0+cpu", "auto-lirpa": None}


def wrote(folder: Path, method: str, **versions: str | None) -> Path:
    environment = replace(ENVIRONMENT, versions={**VERSIONS, **versions}, builds={"torch": "2.15.0+cpu"})
    return write_record(folder / "runs", a_record(method, environment=environment), {})


def pinned(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_records_pin_what_they_were_made_with(run: Run, tmp_path: Path) -> None:
    path = wrote(tmp_path, "ce")
    wrote(tmp_path, "svm")
    for where in (tmp_path, path):
        code, text, _ = run("freeze", where)
        assert code == 0 and pinned(text) == ["numpy==2.4.6", "torch==2.15.0+cpu"]
        assert "# marginbench 0.2.0, commit c0ffee; Python 3.11 on Linux" in text
        assert "# auto-lirpa was not installed" in text
        assert "# torch is the build 2.15.0+cpu, with --extra-index-url https://download.pytorch.org/whl/cpu" in text


def test_this_environment_goes_to_a_file(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("freeze", "-o", tmp_path / "constraints.txt")
    found = pinned((tmp_path / "constraints.txt").read_text())
    assert code == 0 and text == "" and f"torch=={metadata.version('torch')}" in found
    assert f"scipy=={metadata.version('scipy')}" in found and not [line for line in found if "marginbench" in line]


def test_records_of_several_versions_are_refused(run: Run, tmp_path: Path) -> None:
    path = wrote(tmp_path, "ce")
    wrote(tmp_path, "svm", numpy="2.5.0")
    code, _, err = run("freeze", tmp_path)
    assert code == 2 and f"{tmp_path}: made with several versions of numpy 2.4.6, 2.5.0: name one record" in err
    code, text, _ = run("freeze", path)
    assert code == 0 and "numpy==2.4.6" in pinned(text)


def test_the_build_of_pypi_needs_no_index(run: Run, tmp_path: Path) -> None:
    _, text, _ = run("freeze", wrote(tmp_path, "ce", torch="2.15.0"))
    assert "# torch is the build 2.15.0+cpu, as on PyPI" in text


def test_an_older_record_says_that_it_names_few() -> None:
    text = constraints([ENVIRONMENT], "one")
    assert pinned(text) == ["torch==2"] and "older marginbench: they name these packages alone" in text


@pytest.mark.parametrize(
    ("name", "problem"), [("no.json", "No such file"), ("no", "no such folder"), (".", "no records")]
)
def test_what_is_no_record_is_refused(run: Run, tmp_path: Path, name: str, problem: str) -> None:
    code, _, err = run("freeze", tmp_path / name)
    assert code == 2 and problem in err
