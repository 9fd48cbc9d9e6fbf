"""Make everything below results/ that follows from the records again, and the two tables of the top README.

python results/refresh.py
"""

import re
from collections.abc import Sequence
from pathlib import Path

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import read_records
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.files import contents
from marginbench.benchmarks.tables.leaderboard import BASELINE, rank
from marginbench.benchmarks.tables.render import page
from marginbench.benchmarks.tables.text import pipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
SHOWN = {"leaderboard": "leaderboard.md", "claims": "claims.md"}  # mark in the README to file of the digits
ROWS = 10  # of the short leaderboard


def between(text: str, mark: str, body: str) -> str:
    """The text with `body` between <!-- mark --> and <!-- /mark -->."""
    before, rest = text.split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    return f"{before}<!-- {mark} -->\n\n{body.strip()}\n\n<!-- /{mark} -->{after}"


def readme(text: str, made: dict[str, str]) -> str:
    """The top README with each table of the digits, less its title."""
    for mark, name in SHOWN.items():
        text = between(text, mark, made[name].split("\n", 1)[1])
    return text


def suite_page(name: str, made: dict[str, str]) -> str:
    """What a code host shows in the folder of a suite: its leaderboard and its claims."""
    head = f"# {name}\n\nMade from the records in [runs](runs) by `python results/refresh.py`.\n"
    return "\n".join([head, made["leaderboard.md"], made["claims.md"]])


def ten_rows(records: Sequence[Record]) -> str:
    """A short leaderboard of one suite: the baseline, the best row of each family, then the best of the others."""
    rows = rank(records)
    families = {record.method: record.about.family for record in records}
    best = {families[str(row.facts["method"])]: row for row in reversed(rows)}  # the first one stays
    first = [row for row in rows if row.facts["method"] == BASELINE or row in best.values()]
    chosen = [*first, *(row for row in rows if row not in first)][:ROWS]
    table = page([row for row in rows if row in chosen], records)
    return (
        f"{table}\n\n{len(chosen)} of {len(rows)} rows: `{BASELINE}`; of each family, the row with the largest robust"
        " accuracy in L2; and the best of the others."
    )


def legend(records: Sequence[Record]) -> str:
    """What the columns of the records' tables mean."""
    shown = [column for column in columns.all_columns(columns.of_probes(records)) if column.meaning]
    lines = [(f"`{column.name}`", _general(column), column.meaning) for column in shown]
    return pipe(("column of csv and json", "on pages", "meaning"), lines, ["left"] * 3)


def _general(column: Column) -> str:
    """The header of any suite."""
    return re.sub(r"\{\w+:g\}", "ε", column.header) if column.on_page else ""


def refreshed() -> dict[Path, str]:
    """Every file that follows from the records, with its content."""
    files = {}
    everything = []
    for folder in sorted(path.parent for path in REFERENCE.glob("*/runs")):
        records = read_records([folder], strict=True)
        everything += records
        made = contents(records)
        files |= {folder / name: content for name, content in made.items()}
        files[folder / "README.md"] = suite_page(folder.name, made)
        if folder.name == "digits":
            files[ROOT / "README.md"] = readme((ROOT / "README.md").read_text(encoding="utf-8"), made)
    results = ROOT / "results" / "README.md"
    files[results] = between(results.read_text(encoding="utf-8"), "columns", legend(everything))
    return files


if __name__ == "__main__":
    for path, content in refreshed().items():
        path.write_text(content, encoding="utf-8")
