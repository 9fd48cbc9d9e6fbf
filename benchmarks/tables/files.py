"""The tables of a folder of records."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.board import where_rows_stand
from marginbench.benchmarks.tables.claims import render_claims
from marginbench.benchmarks.tables.frame import ranked_frame
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.benchmarks.tables.standing import Standings

if TYPE_CHECKING:
    import pandas as pd


def contents(reading: Reading) -> dict[str, str]:
    """Name to content: leaderboard.{md,csv,tex,json} and claims.md."""
    return _contents(list(reading.records.values()), where_rows_stand(reading))


def _contents(records: Sequence[Record], known: Standings) -> dict[str, str]:
    forms = [form for form in FORMATS if form != "html"]  # for browsers there is the report
    made = {f"leaderboard.{form}": render(records, form, known=known) for form in forms}
    return {**made, "claims.md": render_claims(records)}


def write_tables(reading: Reading, folder: Path) -> tuple["pd.DataFrame", list[Path]]:
    """Write all tables of the records into the folder; returns the leaderboard and the paths."""
    records, known = list(reading.records.values()), where_rows_stand(reading)
    for name, content in (made := _contents(records, known)).items():
        write_atomically(folder / name, content.encode())
    return ranked_frame(records, known=known), [folder / name for name in made]
