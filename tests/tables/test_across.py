"""Ranks across suites, below the leaderboards of several."""

import re
from pathlib import Path

import pytest
from made import EPSILON, a_record
from support import Run

from marginbench.benchmarks.records.record import Record, SuiteFacts, write_record
from marginbench.benchmarks.tables.across import across
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.render import render

ROBUST = "robust_accuracy_l2"
ACCURACY = {"ce": 0.5, "mma": 0.9, "pmm": 0.7, "svm": 0.6}


def records(suites: int, data: str = "") -> list[Record]:
    """Every suite orders the rows in the same way; the last one has no svm."""
    found = []
    for place in range(suites):
        settings = {"data": {"name": data or f"data{place}"}, "evaluation": {"epsilon": EPSILON}}
        suite = SuiteFacts.of({"name": f"suite{place}", "title": "t", **settings})
        rows = list(ACCURACY)[: 3 if place == suites - 1 else 4]
        found += [a_record(row, 0, ACCURACY[row], {"suite": f"{place:064}"}, suite=suite) for row in rows]
    return found


def section(text: str) -> str:
    return text.partition("## Across ")[2]


def test_several_suites_end_with_ranks_across_them() -> None:
    text = section(render(records(3), "md"))
    assert text.startswith("3 suites: ranks by robust % L2\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "average rank", "suite0", "suite1", "suite2"]
    assert rows[2:] == [
        ["mma", "1.00 a", "1", "1", "1"],
        ["pmm", "2.00 a", "2", "2", "2"],
        ["ce", "3.00 a", "3", "3", "3"],
    ]
    assert "With 3 suites no pair of rows can be told apart" in text and "Friedman" in text
    assert "Left out, since some suite lacks them: svm." in text and "share the data" not in text
    assert "<h2>Across 3 suites" in render(records(3), "html")


def test_with_enough_suites_letters_tell_rows_apart() -> None:
    """Three pairs: 2 / 2^B times 3 must be below 5 %."""
    for suites, letters in ((6, ["a", "a", "a"]), (7, ["a", "b", "c"])):
        found = across(records(suites), ROBUST)
        assert found is not None and found.rows == ["mma", "pmm", "ce"] and found.letters == letters
        assert found.ranking.ranks.tolist() == [[1, 2, 3]] * suites


def test_rows_that_were_not_asked_for_are_ranked_and_not_shown() -> None:
    text = section(render(records(3), "md", Choice(methods=["ce", "mma"])))
    assert re.findall(r"^\| (\w+) +\| +([\d.]+)", text, re.MULTILINE) == [("mma", "1.00"), ("ce", "3.00")]


def test_suites_of_one_data_set_are_named() -> None:
    text = section(render(records(2, "digits"), "md"))
    assert "suite0, suite1 share the data digits: they tell less than 2 suites of other data." in text


@pytest.mark.parametrize(("count", "choice"), [(1, Choice()), (3, Choice("method"))])
def test_where_nothing_can_be_ranked_nothing_is_said(count: int, choice: Choice) -> None:
    """One suite; no numbers."""
    made = records(count)
    assert section(render(made, "md", choice)) == "" != render(made, "md", choice)


def test_the_command_shows_it_and_csv_stays_a_table(run: Run, tmp_path: Path) -> None:
    for record in records(2):
        write_record(tmp_path / record.suite.name / "runs", record, {})
    code, text, _ = run("leaderboard", tmp_path / "suite0", tmp_path / "suite1")
    assert code == 0 and section(text).startswith("2 suites")
    code, text, _ = run("leaderboard", tmp_path, "--format", "csv")
    assert code == 0 and "cross" not in text
