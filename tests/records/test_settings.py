"""Settings that somebody has edited are refused; those of an earlier marginbench, without a digest, are read."""

from pathlib import Path

import pytest
from made import a_tuning

from marginbench.benchmarks.records.choice import RULES
from marginbench.benchmarks.records.settings import read_setting, write_setting
from marginbench.methods import MarginbenchError

SETTING = a_tuning("mma", robust=True, rule=RULES["floor"])


def written(folder: Path, *changes: tuple[str, str], with_digest: bool = True) -> Path:
    """A setting, changed in an editor."""
    file = folder / "mma.toml"
    write_setting(file, SETTING)
    lines = file.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if with_digest or not line.startswith("digest"))
    assert ("digest" in text) == with_digest
    for there, here in changes:
        assert there in text
        text = text.replace(there, here, 1)  # below it are the trials
    file.write_text(text)
    return file


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_setting_is_read_as_it_was_written(tmp_path: Path, with_digest: bool) -> None:
    assert read_setting(written(tmp_path, with_digest=with_digest)) == SETTING


@pytest.mark.parametrize("with_digest", [True, False])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([('\nmethod = "mma', '\nmethod = "cosface')], r"method='cosface\(x=2\)': its trials give 'mma\(x=2\)'"),
        ([('\nrow = "mma"', '\nrow = "ce"')], "row='ce': trial 0, the default, is 'mma'"),
        ([("\nchosen = 2", "\nchosen = 92")], "chosen=92: its trials give 2"),
        ([("\nchosen = 2", "\nchosen = 1"), ("mma(x=2)", "mma(x=1)")], "chosen=1: its trials give 2"),
        ([("\nfloor = 0.75", "\nfloor = 0.5")], "chosen=2: its trials give 1"),
        ([("robust_accuracy = 0.2", "robust_accuracy = 0.9")], "chosen=2: its trials give 0"),
        ([("\nrule = ", '\nrule = "mine" # ')], "rule='mine': `tune` has no such rule for pareto"),
        ([("\ntrials = 4", "\ntrials = 20")], "trials=20: these are not the trials in its history"),
        ([("\nfailed = 1", "\nfailed = 0")], "failed=0: its trials give 1"),
        ([("\npasses = 4000.0", "\npasses = 40.0")], r"passes=40\.0: its trials give 4000\.0"),
    ],
)
def test_what_the_trials_do_not_give_is_refused(
    tmp_path: Path, changes: list[tuple[str, str]], problem: str, with_digest: bool
) -> None:
    file = written(tmp_path, *changes, with_digest=with_digest)
    with pytest.raises(MarginbenchError, match=f"^setting {file}: {problem}: let `marginbench tune` write it again$"):
        read_setting(file)


@pytest.mark.parametrize(
    ("there", "here"),
    [("robust_accuracy = 0.2", "robust_accuracy = 0.3"), ("\nx = 0.9", "\nx = 0.1"), ("\nseed = 0", "\nseed = 1")],
)
def test_all_else_that_was_edited_shows_in_the_digest(tmp_path: Path, there: str, here: str) -> None:
    with pytest.raises(MarginbenchError, match=r"mma\.toml: digest='\w{64}': something else in the file was edited"):
        read_setting(written(tmp_path, (there, here)))
