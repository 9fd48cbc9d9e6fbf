"""A suite from the settings that a record holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marginbench.benchmarks.plugins import load_installed_plugins
from marginbench.benchmarks.suites.derive import SECTIONS
from marginbench.benchmarks.suites.schema import Suite, load_suite, make_suite, resolve_files, suite_names

OF_FILES = ("sha256", "source")  # keys that a suite adds by itself to what is not built in


def remake(settings: Mapping[str, Any], folder: Path) -> Suite:
    """The suite of a record: it has its fingerprint, unless marginbench or a file that it names is another one now.

    Args:
        settings: all but methods and seeds, as `SuiteFacts` holds them.
        folder: of the files that the suite names; records hold their names alone.

    Raises:
        MarginbenchError: settings that are right no longer, or a file that is not in the folder.
    """
    load_installed_plugins()
    name = settings["name"]
    base = name.partition("+")[0]  # see `derive`
    values = resolve_files({**_given(settings), "name": base, "seeds": 1}, folder)
    suite = make_suite(values, folder, f"suite {name} of a record")
    if name == base:
        return suite
    derived_from = load_suite(base) if base in suite_names() else suite  # whose radii methods train for
    keys = ((section, key) for section in SECTIONS for key in settings[section])
    changes = {f"{section}.{key}": values[section].get(key) for section, key in keys}  # `derive` begins with the base
    return suite.model_copy(update={"name": name, "base": derived_from, "changes": changes})


def _given(value: Any) -> Any:
    """Without what was added, and without the keys that were left out."""
    if not isinstance(value, Mapping):
        return value
    return {key: _given(item) for key, item in value.items() if item is not None and key not in OF_FILES}
