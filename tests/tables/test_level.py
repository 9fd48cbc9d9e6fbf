"""Rows whose means differ by rounding alone: the same rank, both the best, and ordered by name."""

import csv
import io
from pathlib import Path

from made import LEVEL, a_record, a_tuning, standing

from marginbench.benchmarks.records.reader import read_folders
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.tables.board import boards
from marginbench.benchmarks.tables.choice import EVERYTHING, Choice
from marginbench.benchmarks.tables.columns import OTHERS
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT, rank
from marginbench.benchmarks.tables.pairs import column_pairs, suite_runs
from marginbench.benchmarks.tables.render import render
from marginbench.benchmarks.tables.terminal import BEST, FIRST, shown_rows
from marginbench.benchmarks.tables.tuning import tuning_files


def three(row: str, values: list[float], tuning: Tuning | None = None) -> list[Record]:
    """The networks of a row."""
    names, identity = ("clean_accuracy", "robust_accuracy_l2", "validation_accuracy"), {"tuning": tuning and tuning.id}
    metrics = [{"points": 360.0, **dict.fromkeys(names, value)} for value in values]
    return [a_record(row, seed, metrics=own, tuning=tuning, identity=identity) for seed, own in enumerate(metrics)]


ROWS = [*three("arcface", LEVEL[0]), *three("kobayashi", LEVEL[1])]
WORSE = [record for row in ("ce", "mma", "pmm") for record in three(row, [0.9, 0.91, 0.92])]


def test_they_are_ordered_by_name() -> None:
    for records in ([*ROWS, *WORSE], [*WORSE, *ROWS[::-1]]):
        order = [str(row.facts["method"]) for row in rank(records, "clean_accuracy")]
        assert order == ["arcface", "kobayashi", "ce", "mma", "pmm"]


def test_both_are_the_best() -> None:
    """Unless half of the rows are."""
    text = render([*ROWS, *WORSE], "md", choice=Choice(columns=["clean_accuracy"], by="method"))
    assert text.count("**98.4") == 2
    for others in (WORSE[:3], WORSE[:6]):  # two of three, and of four
        text = render([*ROWS, *others], "md", choice=Choice(columns=["clean_accuracy"], by="method"))
        assert "98.4" in text and "**" not in text


def test_their_comparison_has_them_by_name(tmp_path: Path) -> None:
    for record in ROWS:
        write_record(tmp_path / "runs", record, {})
    (suite,) = suite_runs(read_folders([tmp_path])).values()
    (column,) = (column for column in OTHERS if column.name == "validation_accuracy")  # known without arrays
    assert column_pairs(suite, column).rows == ["arcface", "kobayashi"]


def test_they_share_a_rank_of_tuning(tmp_path: Path) -> None:
    for row, values in zip(("arcface", "kobayashi"), LEVEL, strict=True):
        tuning = a_tuning(row)
        for record in (*three(row, values), *three(tuning.name, values[::-1], tuning)):
            write_record(tmp_path / "runs", record, {})
    files = tuning_files(read_folders([tmp_path]))
    lines = [line for line in csv.DictReader(io.StringIO(files["tuning.csv"])) if line["column"] == "clean_accuracy"]
    assert [(line["default_rank"], line["tuned_rank"]) for line in lines] == [("1", "1")] * 2
    assert "Kendall tau" not in files["tuning.md"], "all are tied"


def test_a_terminal_shows_the_first_of_them() -> None:
    """Of a long table whose best rows stand anywhere, those with the best means."""
    names = [f"a{place:02}" for place in range(57)]
    best = {name: [1.0, 1.0, 1.0] for name in names[20 : 19 + BEST]} | dict(zip(names[40:42], LEVEL, strict=True))
    records = [record for name in names for record in three(name, best.get(name, [0.5, 0.5, 0.5]))]
    known = {("f" * 64, name): {DEFAULT_SORT: standing(1, "a", 1)} for name in names}
    (board,) = boards(records, EVERYTHING, known)
    shown = {str(board.rows[place].facts["method"]) for place in shown_rows(board, ()) if place is not None}
    assert {*names[:FIRST], *names[20 : 19 + BEST], "a40"} <= shown and "a41" not in shown
