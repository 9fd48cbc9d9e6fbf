"""The files that `marginbench tune` writes, one for each row: the chosen setting with all its trials."""

import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.records.choice import outcome, rules_of
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.records.typed import WrongValueError, build
from marginbench.methods import MarginbenchError
from marginbench.methods.words import counted

SETTINGS = "settings"  # name of the folder
DIGEST = "digest"  # key of a file: that of all the others
HEAD = """\
# The setting of {row} that {trials} on the validation images of suite {suite} gave.
# Run it with fresh seeds beside the paper's default: run-all with the --suite and --set of the tuning, and --tuned DIR.
"""


def write_setting(path: Path, tuning: Tuning) -> None:
    """Write one setting as TOML.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    import tomli_w

    path.parent.mkdir(parents=True, exist_ok=True)
    values = _without_none(asdict(tuning))
    head = HEAD.format(row=tuning.row, trials=counted(tuning.trials, "trial"), suite=tuning.suite)
    write_atomically(path, f"{head}{tomli_w.dumps({DIGEST: digest(values), **values})}".encode())


def read_setting(path: Path) -> Tuning:
    """Read one setting.

    Raises:
        MarginbenchError: it is no file that `tune` wrote, or it was changed since.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        told = values.pop(DIGEST, None)  # settings of an earlier marginbench have none
        tuning = build(Tuning, values)
        edited = told is not None and told != digest(values)
    except OSError as error:
        raise MarginbenchError(f"setting {path}: {error.strerror}") from None
    except (ValueError, WrongValueError) as error:
        raise unusable(path, str(error)) from None
    if problem := _contradiction(tuning):
        raise unusable(path, problem)
    if edited:
        raise unusable(path, f"{DIGEST}={told!r}: something else in the file was edited, which gives another one")
    return tuning


def unusable(path: Path, problem: str) -> MarginbenchError:
    """What is wrong with a setting, and the remedy."""
    return MarginbenchError(f"setting {path}: {problem}: let `marginbench tune` write it again")


def _contradiction(tuning: Tuning) -> str | None:
    """The key that does not say what the trials say, if one does not: somebody has edited it."""
    history = tuning.history
    if [trial.number for trial in history] != list(range(tuning.trials)) or not history:
        return f"trials={tuning.trials}: these are not the trials in its history"
    if tuning.row != history[0].method:
        return f"row={tuning.row!r}: trial 0, the default, is {history[0].method!r}"
    rules = rules_of(tuning.objective)
    if tuning.rule not in rules:
        return f"rule={tuning.rule!r}: `tune` has no such rule for {tuning.objective}"
    try:
        given = outcome(history, tuning.objective, tuning.floor or 0.0, rules[tuning.rule])
    except MarginbenchError as error:
        return f"history: {error}"
    told = {key: getattr(tuning, key) for key in given}
    wrong = (key for key in given if told[key] != given[key])
    return next((f"{key}={told[key]!r}: its trials give {given[key]!r}" for key in wrong), None)


def setting_paths(folder: Path) -> list[Path]:
    """The files of all settings below a folder, sorted."""
    homes: Iterable[Path] = [folder] if folder.name == SETTINGS else folder.rglob(SETTINGS)
    return sorted(path for home in homes for path in home.glob("*.toml"))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
