"""The benchmark: data, networks, training, evaluation, records, tables.

In a notebook: `from marginbench.benchmarks import run_all, load, leaderboard, read_arrays, evaluate, evaluate_model,
compare_rows`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "marginbench.benchmarks":
    # `import benchmarks` from the repository's root would build a second registry
    raise ImportError("import marginbench.benchmarks, not benchmarks")

if TYPE_CHECKING:
    from marginbench.benchmarks.evaluation.sandwich import evaluate as evaluate
    from marginbench.benchmarks.models.evaluate import evaluate_model as evaluate_model
    from marginbench.benchmarks.records.record import read_arrays as read_arrays
    from marginbench.benchmarks.runs.run_all import run_all as run_all
    from marginbench.benchmarks.tables.compare import compare_rows as compare_rows
    from marginbench.benchmarks.tables.leaderboard import leaderboard as leaderboard
    from marginbench.benchmarks.tables.leaderboard import load as load

_PUBLIC = {
    "run_all": "runs.run_all",
    "load": "tables.leaderboard",
    "leaderboard": "tables.leaderboard",
    "evaluate": "evaluation.sandwich",
    "evaluate_model": "models.evaluate",
    "compare_rows": "tables.compare",
    "read_arrays": "records.record",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `marginbench --help` answers at once."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
