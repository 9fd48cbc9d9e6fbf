"""The tuned rows of a call of `run_all`: settings that `tune` has chosen, run with seeds that it has not seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.tuning import Tuning, read_setting, setting_paths
from marginbench.benchmarks.runs.plan import Row
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, Method, spec_of
from marginbench.methods.errors import ParameterError, Problems
from marginbench.methods.registry import recreate
from marginbench.methods.userfile import module_source


def tuned_rows(folder: str | Path, suite: Suite, methods: Sequence[Method]) -> list[Row]:
    """A tuned row for each of the methods.

    Args:
        folder: where `tune` has put the settings: its own folder, or one above it.

    Raises:
        ParameterError: there are none for the suite, or of more than one tuning.
        MarginbenchError: a method has none, or one that belongs to an earlier version of it; or budgets differ.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ParameterError("tuned", str(folder), "no such folder; `marginbench tune` makes one")
    found = [(file, read_setting(file)) for file in setting_paths(path)]
    found = [(file, tuning) for file, tuning in found if tuning.suite == suite.name]
    if not found:
        raise ParameterError("tuned", str(folder), f"no setting for suite {suite.name}: `marginbench tune` finds them")
    if len(homes := {file.parent.parent for file, _ in found}) > 1:
        problem = f"holds several tunings of suite {suite.name}: name one of {', '.join(sorted(map(str, homes)))}"
        raise ParameterError("tuned", str(folder), problem)
    settings = {tuning.row: tuning for _, tuning in found}
    problems, rows = Problems(), []
    for method in methods:
        with problems.collected():
            rows.append(_row(spec_of(method), method, settings, digest(suite.recipe)))
    problems.report()
    _check_budgets([row.tuning for row in rows if row.tuning is not None])
    return rows


def beside(methods: Sequence[Method], tuned: Sequence[Row]) -> list[Row]:
    """Each method, and behind it its tuned row, if there is one."""
    defaults = [Row(method) for method in methods]
    if not tuned:
        return defaults
    return [row for pair in zip(defaults, tuned, strict=True) for row in pair]


def _row(name: str, method: Method, settings: Mapping[str, Tuning], trained_by: str) -> Row:
    tuning = settings.get(name)
    if tuning is None:
        raise MarginbenchError(
            f"row {name!r} has not been tuned: let `marginbench tune --methods {name!r}` do so with the budget of the"
            " others, or leave it out with --methods"
        )
    if (tuning.revision, tuning.source) != (method.info.revision, module_source(type(method).__module__)):
        raise MarginbenchError(f"row {name!r} was tuned with another version of the method: tune it again")
    if tuning.trained_by != trained_by:
        raise MarginbenchError(f"row {name!r} was tuned with another version of suite {tuning.suite}: tune it again")
    return Row(recreate(tuning.method, tuning.source), tuning.recipe, tuning)


def _check_budgets(tunings: Sequence[Tuning]) -> None:
    """Rows that are compared have had the same chances.

    Raises:
        MarginbenchError: they had not.
    """
    budgets: dict[tuple[int, str, str, bool], str] = {}
    for tuning in tunings:
        budgets.setdefault(tuning.budget, tuning.row)
    if len(budgets) > 1:
        (few, one), (more, other), *_ = budgets.items()
        raise MarginbenchError(
            f"rows were tuned with unequal budgets: {one} with {few[0]} trials ({few[1]}, {few[2]}), {other} with"
            f" {more[0]} ({more[1]}, {more[2]}); tune all of them alike"
        )
