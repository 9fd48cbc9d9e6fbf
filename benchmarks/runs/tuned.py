"""The tuned rows of a call of `run_all`: settings that `tune` has chosen, run with seeds that it has not seen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.settings import read_setting, setting_paths, unusable
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.runs.plan import Row
from marginbench.benchmarks.suites.schema import Suite, suite_names
from marginbench.methods import MarginbenchError, Method, spec_of
from marginbench.methods.code import source_of
from marginbench.methods.errors import ParameterError, Problems
from marginbench.methods.registry import recreate

Settings = list[tuple[Path, Tuning]]  # each with its file


def tuned_rows(folder: str | Path, suite: Suite, methods: Sequence[Method]) -> list[Row]:
    """A tuned row for each of the methods.

    Settings are those of any suite that trains alike: data, network and recipe are the same, and for methods that train
    for radii these too. What else a suite measures has had no part in the choice.

    Args:
        folder: where `tune` has put the settings: its own folder, or one above it.

    Raises:
        ParameterError: there are none for such a suite, or of more than one tuning.
        MarginbenchError: a method has none, or one of an earlier version of it; or rows were not tuned alike.
    """
    found = _fitting(folder, suite)
    if len(homes := {file.parent.parent for file, _ in found}) > 1:
        problem = f"holds several tunings of suite {suite.name}: name one of {', '.join(sorted(map(str, homes)))}"
        raise ParameterError("tuned", str(folder), problem)
    settings = {tuning.row: (file, tuning) for file, tuning in found}
    problems, rows = Problems(), []
    for method in methods:
        with problems.collected():
            rows.append(_row(spec_of(method), method, settings, suite))
    problems.report()
    _check_ways([row.tuning for row in rows if row.tuning is not None])
    return rows


def suite_held(folder: str | Path) -> str:
    """The built-in suite that the settings below a folder are of, without what was changed in it.

    Raises:
        ParameterError: they are of several, or of one that does not come with marginbench.
    """
    names = sorted({tuning.stream for _, tuning in _settings(folder)})
    if len(names) > 1:
        raise ParameterError("tuned", str(folder), f"holds settings of suites {', '.join(names)}: name one")
    if names[0] not in suite_names():
        problem = f"name the file of suite {names[0]}, of which the settings in {folder} are"
        raise ParameterError("suite", None, problem)
    return names[0]


def beside(methods: Sequence[Method], tuned: Sequence[Row]) -> list[Row]:
    """Each method, and behind it its tuned row, if there is one."""
    defaults = [Row(method) for method in methods]
    if not tuned:
        return defaults
    return [row for pair in zip(defaults, tuned, strict=True) for row in pair]


def _settings(folder: str | Path) -> Settings:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ParameterError("tuned", str(folder), "no such folder; `marginbench tune` makes one")
    if not (found := [(file, read_setting(file)) for file in setting_paths(path)]):
        raise ParameterError("tuned", str(folder), "there is no setting below it; `marginbench tune` finds them")
    return found


def _fitting(folder: str | Path, suite: Suite) -> Settings:
    """The settings of suites that train as this one does: of the one with its name, if there are such."""
    found = _settings(folder)
    alike = [(file, tuning) for file, tuning in found if _trained_alike(tuning, suite)]
    of_name = [(file, tuning) for file, tuning in found if tuning.suite == suite.name]
    best = [one for one in alike if one in of_name] or alike or of_name
    if not best:
        names = ", ".join(sorted({tuning.suite for _, tuning in found}))
        problem = f"no setting for suite {suite.name}, but of {names}, with other data, another network or recipe: name"
        raise ParameterError(
            "tuned", str(folder), f"{problem} the suite and the changes of the tuning, or tune this one"
        )
    return best


def _trained_alike(tuning: Tuning, suite: Suite) -> bool:
    return tuning.trained_by == digest({**suite.recipe, "stream": tuning.stream})


def _row(name: str, method: Method, settings: Mapping[str, tuple[Path, Tuning]], suite: Suite) -> Row:
    if name not in settings:
        raise MarginbenchError(
            f"row {name!r} has not been tuned: let `marginbench tune --methods {name!r}` do so with the budget of the"
            " others, or leave it out with --methods"
        )
    file, tuning = settings[name]
    if (tuning.revision, tuning.source) != (method.info.revision, source_of(type(method))):
        raise MarginbenchError(f"row {name!r} was tuned with another version of the method: tune it again")
    if not _trained_alike(tuning, suite):
        raise MarginbenchError(f"row {name!r} was tuned with another version of suite {tuning.suite}: tune it again")
    if tuning.trained_for and tuning.trained_for != suite.trained_for:
        radii = f"{_radii(tuning.trained_for)}, and this suite has {_radii(suite.trained_for)}"
        raise MarginbenchError(f"row {name!r} was tuned to train for {radii}: tune it again")
    with _blamed(file, f"method={tuning.method!r}"):
        row = Row(recreate(tuning.method, tuning.source), tuning.recipe, tuning)
    with _blamed(file, f"recipe={tuning.recipe!r}"):
        row.suite(suite)
    return row


@contextmanager
def _blamed(file: Path, key: str) -> Iterator[None]:
    """A block whose error is that of a key of a file."""
    try:
        yield
    except MarginbenchError as error:
        raise unusable(file, f"{key}: {error}") from None


def _radii(of: Mapping[Any, float]) -> str:
    return " ".join(f"{norm}={radius:g}" for norm, radius in sorted(of.items()))


def _check_ways(tunings: Sequence[Tuning]) -> None:
    """Rows that are compared have had the same chances.

    Raises:
        MarginbenchError: they had not.
    """
    rows: dict[str, str] = {}
    for tuning in tunings:
        rows.setdefault(tuning.way, tuning.row)
    if len(rows) > 1:
        (way, one), (another, other), *_ = rows.items()
        raise MarginbenchError(
            f"rows were not tuned alike: {one} with {way}; {other} with {another}: tune all of them in one call"
        )
