"""Which records count: each clause of the rule, and everything that must obey it."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made import a_failure, a_record, claiming

from marginbench.benchmarks.records.current import current, marks, precedence
from marginbench.benchmarks.records.reader import Reading, read_folders
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.tables.claims import claims, render_claims
from marginbench.benchmarks.tables.compare import compare_rows
from marginbench.benchmarks.tables.frame import leaderboard
from marginbench.benchmarks.tables.leaderboard import load
from marginbench.benchmarks.tables.render import render
from marginbench.methods import MarginbenchError

C, D = "c" * 64, "d" * 64


def a(method: str, day: int, clean: float = 0.5, *, failed: bool = False, **identity: Any) -> Record:
    make = a_failure if failed else a_record
    return make(method, finished=f"2026-01-{day:02}T00:00:00+00:00", clean=clean, identity=identity)


CLAUSES = {
    "done before failed": ([a("ce", 1)], [a("ce", 2, failed=True)]),
    "newer before older": ([a("ce", 2, 0.6)], [a("ce", 1)]),
    "the newest rules": ([a("ce", 1)], [a("ce", 2, schema=1), a("mma", 3, schema=1, revision=9, data=C)]),
    "the newest revision": ([a("ce", 1, revision=2)], [a("ce", 2, revision=1)]),
    "the newest revision, though it failed": ([a("ce", 1, failed=True, revision=2)], [a("ce", 2, revision=1)]),
    "the newest revision, as a number": ([a("ce", 1, revision=10)], [a("ce", 2, revision=9)]),
    "one data fingerprint": ([a("ce", 2), a("svm", 3)], [a("mma", 1, data=C), a("ce", 1, data=C)]),
    "the data of what is done": ([a("ce", 1)], [a("mma", 2, failed=True, data=C)]),
    "the data of newest revisions": ([a("ce", 1), a("mma", 1, revision=2)], [a("mma", 3, data=C)]),
    "one version of the source": ([a("ce", 2, source="a")], [a("ce", 1, source="b")]),
    "one version of the fields": ([a("ce", 2, fields={"m": 1})], [a("ce", 1, fields={"m": 2})]),
    "one version of the weights": ([a("ce", 2, weights="a")], [a("ce", 1, weights="b")]),
    "one version of the answers": ([a("ce", 2, answers="a")], [a("ce", 1, answers="b")]),
    "the version that is done": ([a("ce", 1, source="a")], [a("ce", 2, failed=True, source="b")]),
    "suites apart": ([a("ce", 1), a("ce", 9, suite="e" * 64, data=C, revision=2)], []),
}


def chosen(records: list[Record]) -> list[Record]:
    return sorted(current(records), key=precedence)


@pytest.mark.parametrize("name", CLAUSES)
def test_each_clause_whatever_the_order(name: str) -> None:
    good, others = CLAUSES[name]
    for order in itertools.permutations([*good, *others]):
        assert chosen(list(order)) == sorted(good, key=precedence)


def blind(**fields: Any) -> Callable[[Record], Record]:
    """A record as a rule would see it that looks neither at these fields of it nor at those of its identity."""

    def seen(record: Record) -> Record:
        of = {key: value for key, value in fields.items() if key in vars(record.identity)}
        own = {key: value for key, value in fields.items() if key not in of}
        return replace(record, notes=[record.finished], identity=replace(record.identity, **of), **own)

    return seen


MUTANTS = {
    "done before failed": blind(status="done"),
    "newer before older": blind(finished=""),
    "the newest rules": blind(schema=2),
    "the newest revision": blind(revision=1),
    "the newest revision, though it failed": blind(revision=1),
    "one data fingerprint": blind(data=D),
    "the data of what is done": blind(status="done"),
    "the data of newest revisions": blind(revision=1),
    "one version of the source": blind(source=None),
    "one version of the fields": blind(fields={}),
    "one version of the weights": blind(weights=None),
    "one version of the answers": blind(answers=None),
    "the version that is done": blind(status="done"),
    "suites apart": blind(suite="f" * 64),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_does_not_look_is_noticed(name: str) -> None:
    good, others = CLAUSES[name]
    wanted = {(record.id, record.finished) for record in good}
    orders = itertools.permutations([*good, *others])
    kept = [{(record.id, *record.notes) for record in current(map(MUTANTS[name], order))} for order in orders]
    assert any(found != wanted for found in kept), "no order of the records tells the rules apart"


def test_why_a_record_does_not_count() -> None:
    new, old, elsewhere = a("ce", 2, revision=2), a("ce", 1), a("svm", 1, data=C)
    assert marks([new, old, elsewhere]) == {new.id: "", old.id: "stale", elsewhere.id: "other_data"}


def test_rows_that_do_not_count_stand_last_and_marked_and_are_explained() -> None:
    records = [a("ce", 3, 0.1), a("ce", 2, 0.9, source="b"), a("svm", 1, 0.8, data=C), a("mma", 3, 0.2)]
    frame = leaderboard(records)
    assert frame["method"].tolist() == ["mma", "ce", "ce", "svm"]
    assert frame["doubts"].tolist() == ["", "", "stale", "other_data"]
    text = render(records, "md")
    assert "- stale: There is a newer version" in text and "- other_data: Measured on other data" in text
    assert "- stale" not in render(records[:1], "md")


def test_two_versions_of_a_suite_have_headings_that_differ() -> None:
    records = [claiming(record, "f", "p") for record in (a("ce", 1), a("ce", 2, suite="e" * 64))]
    for text in (render(records, "md"), render_claims(Reading({Path(record.id): record for record in records}, {}))):
        heads = [line.partition(":")[0] for line in text.splitlines() if line.startswith("## ")]
        assert sorted(heads) == ["## toy (eeeeeeee)", "## toy (ffffffff)"]
    assert render(records[:1], "md").startswith("## toy: ")


def test_a_run_that_is_given_twice_counts_once() -> None:
    row = leaderboard([a("ce", 1, 0.2), a("ce", 2, 0.4), a("ce", 3, failed=True)]).iloc[0]
    assert row["n"] == 1 and row["failed"] == 0 and row["clean_accuracy"] == 0.4


def test_a_model_with_another_normalisation_is_another_version() -> None:
    """They have one name, one repetition and other fields: no mean over both."""
    records = [a("mine", day, clean, fields={"mean": [mean]}) for day, clean, mean in ((1, 0.2, 0.1), (2, 0.4, 0.5))]
    frame = leaderboard(records)
    assert frame["n"].tolist() == [1, 1] and frame["clean_accuracy"].tolist() == [0.4, 0.2]
    assert frame["doubts"].tolist() == ["", "stale"]


def test_costs_are_relative_to_a_baseline_that_counts() -> None:
    def timed(record: Record, seconds: float) -> Record:
        return replace(record, cost={"seconds": seconds})

    ce = timed(a("ce", 5), 2.0)
    old = timed(a("ce", 1, source="b"), 100.0)
    other = timed(a("ce", 1, data=C), 50.0)
    frame = leaderboard([ce, old, other, timed(a("mma", 5), 6.0), timed(a("svm", 1, data=C), 6.0)]).set_index("method")
    assert frame.loc["mma", "cost"] == 3.0 and pd.isna(frame.loc["svm", "cost"])


def test_claims_and_comparisons_use_the_same_records(tmp_path: Path) -> None:
    def claimed(record: Record) -> Record:
        return claiming(record, "f", "p", "accuracy")

    ce, mma = a("ce", 5, 0.5), claimed(a("mma", 5, 0.7))
    old = [a("ce", 1, 0.1, data=C), claimed(a("mma", 9, 0.9, failed=True, source="b")), claimed(a("svm", 1, data=C))]
    for i, record in enumerate([ce, mma, *old]):
        write_record(tmp_path / str(i) / "runs", record, {})
    (row,) = claims(read_folders([tmp_path])).to_dict("records")
    assert row["method"] == "mma" and row["n"] == 1 and row["difference"] == pytest.approx(0.2)
    frame = load(tmp_path)
    assert sorted(frame["mark"]) == ["", "", "other_data", "other_data", "stale"]
    with pytest.raises(MarginbenchError, match="row 'svm' does not count, it is marked other_data"):
        compare_rows("svm", "ce", tmp_path)
