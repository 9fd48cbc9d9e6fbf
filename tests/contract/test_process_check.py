"""A file may keep what it computes once, but nothing of a run; where there is no file, nothing can be said."""

from pathlib import Path

from contract_support import Mutant

from marginbench.benchmarks.contract.check import methods_of, run_check
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.methods import get

KEEPS = """
_kept = {}

def kept(key, value):
    return _kept.setdefault(key, value)
"""


def file_that_keeps(folder: Path, what: str) -> Path:
    """The template, with a factor of the loss that is computed once."""
    path = write_template("my_margin", folder)
    text = path.read_text(encoding="utf-8")
    assert text.count("return Loss(risk + ") == 1
    path.write_text(text.replace("return Loss(risk + ", f"return Loss({what} * risk + ") + KEEPS, encoding="utf-8")
    return path


def test_a_number_of_the_first_run_is_found_in_a_file(tmp_path: Path) -> None:
    (method,) = methods_of(file_that_keeps(tmp_path, 'kept("first", risk.detach())'))
    result = run_check("nothing_kept", method)
    assert result.status == "failed" and "depends on what ran before in this process" in result.reason
    assert get("my_margin") is type(method)


def test_what_is_computed_once_by_shape_may_be_kept(tmp_path: Path) -> None:
    (method,) = methods_of(file_that_keeps(tmp_path, "kept(len(batch.y), 1 / len(batch.y))"))
    result = run_check("nothing_kept", method)
    assert result.status == "passed", result.reason


def test_without_a_file_nothing_is_said() -> None:
    class Inside(Mutant):
        """L = CE(z, y), of a class that stands in a function."""

    result = run_check("nothing_kept", Inside())
    assert result.status == "skipped" and "stands in no file" in result.reason
