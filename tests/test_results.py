"""The committed tables are what the committed records give, and the README shows one of them."""

from pathlib import Path

import pytest

from marginbench.benchmarks.board import leaderboard, read_records
from marginbench.benchmarks.render import FORMATS, render
from marginbench.benchmarks.suite import load_suite

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path for path in (ROOT / "results" / "reference").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_follow_from_records(folder: Path) -> None:
    records = read_records([folder])
    for form in FORMATS:
        committed = (folder / f"leaderboard.{form}").read_text(encoding="utf-8")
        assert render(leaderboard(records), records, form) == committed, form


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_records_are_complete_and_free_of_contradictions(folder: Path) -> None:
    suite = load_suite(folder.name)
    records = read_records([folder])
    assert {record.identity["suite"] for record in records} == {suite.fingerprint}, (
        "the suite has changed: run it again"
    )
    assert len(records) == len(suite.methods or ()) * suite.seeds
    for record in records:
        assert record.status == "done" and "contradiction" not in record.doubts, record.method


def test_the_readme_shows_the_table_as_printed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- leaderboard -->\n")[1].split("<!-- /leaderboard -->")[0]
    printed = (ROOT / "results/reference/digits/leaderboard.md").read_text(encoding="utf-8")
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line for line in shown.splitlines() if line.startswith("|")] == table
