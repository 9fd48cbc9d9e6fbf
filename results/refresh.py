"""Make the tables below results/reference again from their records, and put those of the digits into the README.

python results/refresh.py
"""

from pathlib import Path

from marginbench.benchmarks.records.reader import read_records
from marginbench.benchmarks.tables.files import contents

ROOT = Path(__file__).parents[1]
SHOWN = {"leaderboard": "leaderboard.md", "claims": "claims.md"}  # mark in the README to file of the digits


def readme(text: str, shown: dict[str, str]) -> str:
    """The README with each table, less its title, between its marks."""
    for mark, name in SHOWN.items():
        before, rest = text.split(f"<!-- {mark} -->\n")
        after = rest.split(f"<!-- /{mark} -->")[1]
        body = shown[name].split("\n", 1)[1].strip()
        text = f"{before}<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->{after}"
    return text


if __name__ == "__main__":
    for folder in sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/runs")):
        made = contents(read_records([folder]))
        for name, content in made.items():
            (folder / name).write_text(content, encoding="utf-8")
        if folder.name == "digits":
            page = ROOT / "README.md"
            page.write_text(readme(page.read_text(encoding="utf-8"), made), encoding="utf-8")
