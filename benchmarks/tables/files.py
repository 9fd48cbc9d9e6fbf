"""The tables of a folder of records."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.claims import render_claims
from marginbench.benchmarks.tables.leaderboard import leaderboard
from marginbench.benchmarks.tables.render import FORMATS, render

if TYPE_CHECKING:
    import pandas as pd


def contents(records: Sequence[Record]) -> dict[str, str]:
    """Name to content: leaderboard.{md,csv,tex,json} and claims.md."""
    made = {f"leaderboard.{form}": render(records, form) for form in FORMATS}
    return {**made, "claims.md": render_claims(records)}


def write_tables(records: Sequence[Record], folder: Path) -> tuple["pd.DataFrame", list[Path]]:
    """Write all tables of the records into the folder; returns the leaderboard and the paths."""
    for name, content in (made := contents(records)).items():
        write_atomically(folder / name, content.encode())
    return leaderboard(records), [folder / name for name in made]
