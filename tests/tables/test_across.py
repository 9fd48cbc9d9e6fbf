"""Ranks across suites, below the leaderboards of several."""

import re
from dataclasses import replace
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


def evaluations(name: str, accuracy: dict[str, float], count: int, own: tuple[str, ...] = ()) -> list[Record]:
    """A suite and further evaluations of its networks; those of the rows in `own` were trained for each anew."""
    found = []
    for place in range(count):
        changed = f"{name}+evaluation.points={place}" if place else name
        values = {"name": changed, "title": "t", "data": {"name": f"data of {name}"}}
        suite = SuiteFacts.of({**values, "evaluation": {"epsilon": EPSILON}})
        for row, value in accuracy.items():
            training = f"{row} of {changed if row in own else name}"
            identity = {"suite": f"{changed:#<64}", "training": training}
            found.append(a_record(row, 0, value, identity, suite=suite))
    return found


A, B = {"ce": 0.5, "mma": 0.9, "pmm": 0.7}, {"ce": 0.9, "mma": 0.5, "pmm": 0.7}


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


def test_small_is_good_where_the_column_says_so() -> None:
    seconds = {"ce": 2.0, "mma": 9.0, "pmm": 3.0, "svm": 1.0}
    made = [replace(record, cost={"seconds": seconds[record.method]}) for record in records(3)]
    found = across(made, "cost")
    assert found is not None and found.rows == ["ce", "pmm", "mma"]
    assert found.ranking.ranks.tolist() == [[1, 2, 3]] * 3


def test_rows_are_ranked_by_their_means_over_seeds() -> None:
    """In each suite the first seed alone would turn the order round: 0.9 and 0.2 beside 0.6 and 0.6."""
    made = [record for record in records(3) if record.method in ("ce", "mma")]
    accuracies = {"ce": (0.9, 0.2), "mma": (0.6, 0.6)}
    seeds = [
        a_record(one.method, seed, accuracies[one.method][seed], {"suite": one.identity.suite}, suite=one.suite)
        for one in made
        for seed in range(2)
    ]
    found = across(seeds, ROBUST)
    assert found is not None and found.average_ranks == {"mma": 1, "ce": 2}


def test_rows_that_were_not_asked_for_are_ranked_and_not_shown() -> None:
    text = section(render(records(3), "md", Choice(methods=["ce", "mma"])))
    assert re.findall(r"^\| (\w+) +\| +([\d.]+)", text, re.MULTILINE) == [("mma", "1.00"), ("ce", "3.00")]


def test_suites_of_one_data_set_are_named() -> None:
    text = section(render(records(2, "digits"), "md"))
    assert "suite0 and suite1 share the data digits: they tell less than 2 suites of other data." in text


@pytest.mark.parametrize("own", [(), ("mma",), ("mma", "pmm")])
def test_evaluations_of_the_same_networks_are_one_suite(own: tuple[str, ...]) -> None:
    """As suites of their own six of them would turn a draw into a rank of 8 / 7; a single network in common counts."""
    made = [*evaluations("b", B, 1), *evaluations("a", A, 6, own)]
    found = across(made, ROBUST)
    assert found is not None and found.suites == ["a", "b"] and found.rows == ["ce", "mma", "pmm"]
    assert found.average_ranks == {"ce": 2, "mma": 2, "pmm": 2} and found.ranking.ranks.tolist() == [
        [3, 1, 2],
        [1, 3, 2],
    ]
    text = section(render(made, "md"))
    others = ", ".join(f"a+evaluation.points={place}" for place in range(1, 5))
    assert text.startswith("2 suites: ranks by robust % L2\n") and "With 2 suites no pair" in text
    assert f"- a, {others} and a+evaluation.points=5 share networks: they count as one suite, of which a is" in text
    assert "share the data" not in text and "a+evaluation.points=1 |" not in text


def test_where_all_suites_share_their_networks_nothing_is_ranked() -> None:
    assert across(evaluations("a", A, 7), ROBUST) is None
    assert across(evaluations("a", A, 7, tuple(A)), ROBUST) is not None
    assert section(render(evaluations("a", A, 7), "md")) == ""


def test_the_evaluation_with_more_rows_stands_for_the_others() -> None:
    """The suite itself has one row; an evaluation without the column stands for nothing."""
    own, changed = evaluations("a", {"ce": 0.5}, 2)
    more = [one for one in evaluations("a", A, 3) if one.suite.name == "a+evaluation.points=2"]
    blind = replace(changed, metrics={"points": 10.0, "clean_accuracy": 0.5})
    found = across([own, blind, *more, *evaluations("b", B, 1)], ROBUST)
    assert found is not None and found.suites == ["a+evaluation.points=2", "b"] and len(found.rows) == 3
    assert found.same_networks["a+evaluation.points=2"] == ["a", "a+evaluation.points=1"]


def test_a_model_from_outside_is_one_network_on_each_data_set() -> None:
    def model(record: Record) -> Record:
        identity = replace(record.identity, training=None, weights=f"weights of {record.method}")
        return replace(record, id=identity.id, identity=identity)

    found = across(list(map(model, [*evaluations("a", A, 6), *evaluations("b", B, 2)])), ROBUST)
    assert found is not None and found.suites == ["a", "b"] and set(found.average_ranks.values()) == {2}


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
