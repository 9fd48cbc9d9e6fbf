"""Make all tables in results/ and in the pages again: from the records, from the registry of methods, from the doubts.

python results/refresh.py

With --reports also the reports and the figure of the README, which take minutes. The reports show features and
adversarial examples where results/reference/networks has the networks, which `run-all --out results/reference` leaves.
"""

import itertools
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from marginbench.benchmarks import plot, report
from marginbench.benchmarks.evaluation.doubts import DOUBTS, explanation
from marginbench.benchmarks.figures.save import save
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import Reading, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables import columns, notes
from marginbench.benchmarks.tables.board import boards, where_rows_stand
from marginbench.benchmarks.tables.cells import page_columns
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.files import contents
from marginbench.benchmarks.tables.leaderboard import rank
from marginbench.benchmarks.tables.render_margins import page
from marginbench.benchmarks.tables.text import markdown, pipe
from marginbench.methods import get, names

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
ROWS = 10  # of the short leaderboard
LEFT_OUT = ("n", "points", "rejecting", "cost", "doubts")  # of its columns, by the first word


def between(text: str, mark: str, body: str) -> str:
    """The text with `body` between <!-- mark --> and <!-- /mark -->."""
    before, rest = text.split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    return f"{before}<!-- {mark} -->\n\n{body.strip()}\n\n<!-- /{mark} -->{after}"


def suite_page(name: str, made: dict[str, str]) -> str:
    """What a code host shows in the folder of a suite: its leaderboard and its claims."""
    head = f"# {name}\n\nMade from the records in [runs](runs) by `python results/refresh.py`.\n"
    return "\n".join([head, made["leaderboard.md"], made["claims.md"]])


def shown_rows(records: Sequence[Record]) -> tuple[list[str], int]:
    """The baseline, the best row of each family, then the best of the others; and how many rows there are."""
    rows = [str(row.facts["method"]) for row in rank(records) if not row.mark]
    families = {record.method: record.about.family for record in records}
    best = {families[row]: row for row in reversed(rows)}  # the first one stays
    first = [row for row in rows if row == BASELINE or row in best.values()]
    return [*first, *(row for row in rows if row not in first)][:ROWS], len(rows)


def ten_rows(reading: Reading) -> str:
    """A short leaderboard of one suite."""
    records = list(reading.records.values())
    chosen, count = shown_rows(records)
    (board,) = boards(records, Choice(methods=chosen), where_rows_stand(reading))
    table = [column for column in page_columns(board) if column.header.split()[0] not in LEFT_OUT]
    narrow = re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", markdown(table)))
    how = " ".join(notes.legend(board, [column.header for column in table]))
    return (
        f"{narrow}\n\n{len(chosen)} of {count} rows: `{BASELINE}`; of each family, the row with the"
        f" largest robust accuracy in L2; and the best of the others. {how}"
    )


def catalogue() -> str:
    """All methods by family, with what is said to grow."""
    parts = []
    for family, keys in itertools.groupby(names(), key=lambda key: get(key).info.family):
        parts.append(f"### {family}\n\n| method | paper | said to grow |\n| --- | --- | --- |")
        for info in (get(key).info for key in keys):
            rows = ", ".join(f"`{name}`" for name in (info.key, *info.presets))
            claims = ", ".join(info.claims).replace("_", " ") or "-"
            parts[-1] += f"\n| {rows} | {info.paper} | {claims} |"
    return "\n\n".join(parts)


def doubts() -> str:
    """Every built-in doubt with its explanation."""
    lines = [(f"`{name}`", explanation(name)) for name in sorted(DOUBTS) if DOUBTS.source(name) is None]
    return pipe(("doubt", "what was seen"), lines, ["left"] * 2)


def legend(records: Sequence[Record]) -> str:
    """What the columns of the records' tables mean."""
    shown = [column for column in columns.all_columns(columns.of_probes(records)) if column.meaning]
    lines = [(f"`{column.name}`", _general(column), column.meaning) for column in shown]
    lines += [(f"`NAME_{end}`", "", meaning) for end, meaning in columns.STANDING.items()]
    return pipe(("column of csv and json", "on pages", "meaning"), lines, ["left"] * 3)


def _general(column: Column) -> str:
    """The header of any suite."""
    return re.sub(r"\{\w+:g\}", "ε", column.header) if column.on_page else ""


def folders() -> list[Path]:
    """Those of the suites."""
    return sorted(path.parent for path in REFERENCE.glob("*/runs"))


def untuned() -> list[Path]:
    """Those without tuned rows, which are relatives of the defaults beside them."""
    return [folder for folder in folders() if not folder.name.endswith("_tuned")]


def refreshed() -> dict[Path, str]:
    """Every file that follows from the records, with its content."""
    files = {}
    everything = []
    for folder in folders():
        reading = read_folders([folder], strict=True)
        everything += reading.records.values()
        made = contents(reading)
        files |= {folder / name: content for name, content in made.items()}
        files[folder / "README.md"] = suite_page(folder.name, made)
        if folder.name == "digits":
            files[ROOT / "README.md"] = filled("README.md", **{"ten rows": ten_rows(reading)})
    files[ROOT / "results" / "margins.md"] = page(read_folders(untuned()))
    files[ROOT / "methods" / "README.md"] = filled("methods/README.md", catalogue=catalogue())
    files[ROOT / "results" / "README.md"] = filled("results/README.md", columns=legend(everything), doubts=doubts())
    return files


def filled(page_name: str, **marked: str) -> str:
    """The page with new text between its marks."""
    text = (ROOT / page_name).read_text(encoding="utf-8")
    for mark, body in marked.items():
        text = between(text, mark, body)
    return text


def same(path: Path, content: str) -> bool:
    """Whether the file holds it. In csv files but for the last digits of numbers, which change with the processor."""
    found = path.read_text(encoding="utf-8")
    if path.suffix != ".csv" or found == content:
        return found == content
    cells, wanted = (re.split(r"[,\n]", text) for text in (found, content))
    return len(cells) == len(wanted) and all(map(_close, cells, wanted))


def _close(found: str, wanted: str) -> bool:
    try:
        return found == wanted or math.isclose(float(found), float(wanted), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


def write_reports() -> None:
    """A report of each suite, and the figure of the README. They change with the fonts and libraries of the machine."""
    for folder in folders():
        report(folder).save(folder / "report.html")
    reading = read_folders([REFERENCE / "digits"])
    chosen, _ = shown_rows(list(reading.records.values()))
    save(plot("intervals", reading, methods=chosen, width=160), ROOT / "results" / "digits.svg")


if __name__ == "__main__":
    for path, content in refreshed().items():
        if not (path.exists() and same(path, content)):
            path.write_text(content, encoding="utf-8")
    if "--reports" in sys.argv[1:]:
        write_reports()
