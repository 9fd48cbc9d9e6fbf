"""Tables are read off records: they need neither torch nor what made the numbers."""

import subprocess
import sys
from pathlib import Path

ROOMS = ("attacks", "certificates", "probes", "evaluation", "training", "suites", "nets", "data", "runs")
IMPORTS = """
import importlib, pkgutil, sys
import marginbench.benchmarks.tables as tables
for name in ("record", "column", "metrics", "older", "reader", "typed"):
    importlib.import_module(f"marginbench.benchmarks.records.{name}")
for module in pkgutil.iter_modules(tables.__path__):
    importlib.import_module(f"{tables.__name__}.{module.name}")
"""
COMMAND = """
import sys
sys.argv = ["marginbench", "leaderboard", FOLDER]
from marginbench.benchmarks.cli import main
try:
    main()
except SystemExit:
    pass
"""


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(); print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_tables_and_records_load_no_torch_and_nothing_that_measures() -> None:
    modules = loaded(IMPORTS)
    assert "marginbench.benchmarks.tables.render_comparison" in modules and "numpy" in modules
    assert "torch" not in modules
    rooms = {name.split(".")[2] for name in modules if name.startswith("marginbench.benchmarks.")}
    assert not rooms & set(ROOMS)


def test_the_leaderboard_waits_for_nothing_that_it_does_not_need() -> None:
    folder = Path(__file__).parents[2] / "results" / "reference" / "digits_exact"
    modules = loaded(COMMAND.replace("FOLDER", repr(str(folder))))
    assert "marginbench.benchmarks.tables.render" in modules
    assert not modules & {"torch", "pandas", "scipy.stats", "scipy.optimize"}


def test_this_would_be_seen() -> None:
    assert "torch" in loaded("import marginbench.benchmarks.nets.small")
