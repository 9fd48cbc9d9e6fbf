"""The tables of a folder of records."""

from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.tables.board import where_rows_stand
from marginbench.benchmarks.tables.claims import render_claims
from marginbench.benchmarks.tables.frame import ranked_frame
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.benchmarks.tables.standing import Standings
from marginbench.benchmarks.tables.tuning import tuning_files

if TYPE_CHECKING:
    import pandas as pd


def contents(reading: Reading) -> dict[str, str]:
    """Name to content: leaderboard.{md,csv,tex,json} and claims.md, and tuning.{md,csv} where rows are tuned."""
    return _contents(reading, where_rows_stand(reading))


def _contents(reading: Reading, known: Standings) -> dict[str, str]:
    records = list(reading.records.values())
    forms = [form for form in FORMATS if form != "html"]  # for browsers there is the report
    made = {f"leaderboard.{form}": render(records, form, known=known) for form in forms}
    return {**made, "claims.md": render_claims(reading), **tuning_files(reading)}


def write_tables(reading: Reading, folder: Path) -> tuple["pd.DataFrame", list[Path]]:
    """Write all tables of the records into the folder; returns the leaderboard and the paths."""
    known = where_rows_stand(reading)
    for name, content in (made := _contents(reading, known)).items():
        write_atomically(folder / name, content.encode())
    return ranked_frame(list(reading.records.values()), known=known), [folder / name for name in made]
