"""The tables of a folder of records."""

from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.tables.claims import render_claims
from marginbench.benchmarks.tables.leaderboard import leaderboard
from marginbench.benchmarks.tables.render import FORMATS, render, where_rows_stand

if TYPE_CHECKING:
    import pandas as pd


def contents(reading: Reading) -> dict[str, str]:
    """Name to content: leaderboard.{md,csv,tex,json} and claims.md."""
    records, known = list(reading.records.values()), where_rows_stand(reading)
    forms = [form for form in FORMATS if form != "html"]  # for browsers there is the report
    made = {f"leaderboard.{form}": render(records, form, known=known) for form in forms}
    return {**made, "claims.md": render_claims(records)}


def write_tables(reading: Reading, folder: Path) -> tuple["pd.DataFrame", list[Path]]:
    """Write all tables of the records into the folder; returns the leaderboard and the paths."""
    for name, content in (made := contents(reading)).items():
        write_atomically(folder / name, content.encode())
    return leaderboard(reading.records.values()), [folder / name for name in made]
