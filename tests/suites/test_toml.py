"""The file of a built-in suite as the start of one's own."""

from pathlib import Path

import pytest
from support import Run

from marginbench.benchmarks.describe import suite_toml
from marginbench.benchmarks.suites.schema import load_suite, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_what_is_printed_loads_as_the_same_suite(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(suite_toml(name))
    assert load_suite(str(path)).fingerprint == load_suite(name).fingerprint
    assert "another name" in path.read_text().splitlines()[0]


def test_the_command_prints_a_file_or_explains_it(run: Run, tiny: Path) -> None:
    code, out, _ = run("suites", "digits", "--toml")
    assert code == 0 and out == suite_toml("digits") and '\nname = "digits"\n' in out
    code, out, _ = run("suites", tiny)
    assert code == 0 and out.startswith("tiny: two epochs of digits\n") and "epochs = 2" in out
    code, _, err = run("suites", "--toml")
    assert code == 2 and "name a suite" in err
    code, _, err = run("suites", "digit", "--toml")
    assert code == 2 and "did you mean 'digits'" in err
