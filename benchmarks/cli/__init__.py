"""The command line. Heavy imports stay inside the commands, so that --help answers at once."""

from marginbench.benchmarks.cli import runs, tuning, networks, tables, repeat, catalogue  # noqa: I001  the order of --help
from marginbench.benchmarks.cli.app import main

__all__ = ["catalogue", "main", "networks", "repeat", "runs", "tables", "tuning"]
