"""Rows and columns that are asked for, in every format; names that nobody knows; suites that are never mixed."""

import json
from pathlib import Path

import pytest
from made import a_failure, a_record, a_suite, claiming, standing
from support import Run

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.record import Record, SuiteFacts, write_record
from marginbench.benchmarks.tables.board import Board, boards
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.methods.errors import ParameterError

FAMILIES = {"ce": "baselines", "svm": "output_margin", "arcface": "output_margin", "ibp": "certified"}


def four(**changes: object) -> list[Record]:
    """Four rows of three families, `ibp` the best, `ce` the worst."""
    records = [a_record(name, 0, 0.5 + 0.1 * place) for place, name in enumerate(FAMILIES)]
    return [claiming(record, FAMILIES[record.method], "-") for record in records]


def sentences() -> list[Record]:
    """The same without radii, of a suite of their own."""
    suite = SuiteFacts.of({"name": "words", "title": "no pixels", "evaluation": {}})
    return [
        a_record(
            record.method, identity={"suite": "b" * 64}, suite=suite, metrics={"points": 10.0, "clean_accuracy": 0.5}
        )
        for record in four()
    ]


def names(records: list[Record], choice: Choice) -> list[str]:
    return [str(row.facts["method"]) for board in boards(records, choice, {}) for row in board.rows]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (Choice(), ["ibp", "arcface", "svm", "ce"]),
        (Choice(families=["output_margin", "baselines"]), ["arcface", "svm", "ce"]),
        (Choice(methods=["svm", "ibp"]), ["ibp", "svm"]),
        (Choice(families=["output_margin"], methods=["svm", "ibp"]), ["svm"]),
        (Choice(top=2), ["ibp", "arcface", "ce"]),
        (Choice(top=1, families=["output_margin"]), ["arcface"]),
        (Choice(top=99), ["ibp", "arcface", "svm", "ce"]),
        (Choice("cost", top=1), ["ce"]),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_the_rows_that_were_asked_for(form: str, choice: Choice, wanted: list[str]) -> None:
    assert names(four(), choice) == wanted
    text = render(four(), form, choice)
    others = FAMILIES.keys() - set(wanted)
    body = text.partition("tabular}")[2] or text
    assert all(name in body for name in wanted) and not any(name in body for name in others - {"ce"})


def test_a_method_stands_for_all_its_rows_and_a_row_for_itself() -> None:
    records = [a_record("arcface(m=0.1)"), a_record("arcface(m=0.2)"), a_record("arcface_x"), a_record("mma")]
    records.append(a_record("omma", identity={"method": "mma", "fields": {"spec": "omma"}}))
    assert names(records, Choice(methods=["arcface"])) == ["arcface(m=0.1)", "arcface(m=0.2)"]
    assert names(records, Choice(methods=["arcface(m=0.2)", "arcface_x"])) == ["arcface(m=0.2)", "arcface_x"]
    assert names(records, Choice(methods=["mma"])) == ["mma"], "a row of that name is meant"
    assert names(records, Choice(methods=["arcface( m = 0.20 )"])) == ["arcface(m=0.2)"], "specs have one meaning"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(by="clean"), "by='clean': no such column: did you mean 'clean_accuracy'"),
        (Choice(families=["certifed"]), "families='certifed': no such family: did you mean 'certified'"),
        (Choice(methods=["svn"]), "methods='svn': no such row: did you mean 'svm'"),
        (Choice(columns=["costs"]), "columns='costs': no such column: did you mean 'cost'"),
        (Choice(methods=["svm"], families=["certified"]), r"methods=\['svm'\]: no such row in certified"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_names_that_nobody_knows_are_refused(form: str, choice: Choice, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        render(four(), form, choice)


def test_no_table_has_less_than_one_row() -> None:
    with pytest.raises(ParameterError, match="top=0: should be 1 or more"):
        Choice(top=0)


def test_columns_that_were_asked_for_come_in_their_usual_order() -> None:
    choice = Choice("robust_accuracy_l2", columns=["n", "feature_margin", "clean_accuracy_ci95"])
    header = render(four(), "md", choice).splitlines()[2]
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells == ["method", "robust % L2 0.5", "clean %", "feature margin", "n"]
    header = render(four(), "csv", choice).splitlines()[0]
    wanted = ["suite", "suite_fingerprint", "method", "n", "clean_accuracy", "clean_accuracy_ci95"]
    wanted += ["robust_accuracy_l2", "robust_accuracy_l2_ci95", "feature_margin", "feature_margin_ci95"]
    assert header.split(",") == wanted
    assert [*json.loads(render(four(), "json", choice))[0]] == wanted


def test_doubts_are_shown_whatever_was_asked_for() -> None:
    records = [*four(), a_failure("pmm")]
    assert "FAILED 1x: RuntimeError" in render(records, "md", Choice(columns=["clean_accuracy"]))


def test_doubts_may_be_asked_for_where_there_are_none() -> None:
    records = [a_record("ce"), a_record("mma")]
    lines = render(records, "md", Choice(columns=["doubts"])).splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith("| ")] == ["doubts", "none", "none"]
    assert "doubts" not in render(records, "md", Choice(columns=["clean_accuracy"]))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            Choice("method", top=1),
            ["Ordered by method.", "Left out: 2 rows; asked for: the first 1 by method, and ce.", "of the rows shown"],
        ),
        (
            Choice("clean_accuracy", top=1),
            ["Ordered by clean %, the best first", "asked for: the first 1 by their means, and ce."],
        ),
        (Choice("clean_accuracy_ci95", top=1), ["95 % interval of clean %, the narrowest first", "the first 1 by"]),
        (Choice("n", top=1), ["Ordered by n."]),
        (Choice(methods=["mma"]), ["bold: best mean of the rows shown"]),
        (Choice(), ["bold: best mean."]),
    ],
)
def test_the_legend_says_what_orders_the_rows_and_which_are_shown(choice: Choice, words: list[str]) -> None:
    records = [a_record(name, seed, 0.8 + 0.1 * i) for i, name in enumerate(("ce", "mma", "pmm")) for seed in range(3)]
    text = render(records, "md", choice)
    for word in words:
        assert word in text
    assert ("| n |" in " ".join(text.split())) == (choice.by == "n")


def test_the_command_names_its_options(run: Run, tmp_path: Path) -> None:
    for record in four():
        write_record(tmp_path / "toy" / "runs", record, {})
    code, text, _ = run("leaderboard", tmp_path, "--families", "certified,baselines", "--columns", "n", "--top", "1")
    assert code == 0 and "| ibp" in text and "| ce (baseline)" in text and "svm" not in text
    code, text, _ = run("leaderboard", tmp_path, "--methods", "svm,ce", "--by", "cost", "--format", "json")
    assert code == 0 and [row["method"] for row in json.loads(text)] == ["ce", "svm"]
    for option, wrong in (("--by", "x"), ("--families", "x"), ("--methods", "x"), ("--columns", "x"), ("--top", "0")):
        code, _, text = run("leaderboard", tmp_path, option, wrong)
        assert code == 2 and text.startswith(f"error: {option} {wrong}: "), text


def test_an_order_by_what_nobody_measured_is_refused() -> None:
    bare = sentences()
    for form in ("md", "csv"):
        with pytest.raises(ParameterError, match=r"no row of these records has it; they have method, key, n, .*clean"):
            render(bare, form, Choice(DEFAULT_SORT))
    with pytest.raises(ParameterError, match="intervals take 3 networks of a row, and none has so many"):
        render(bare, "md", Choice("clean_accuracy_ci95"))
    assert "Ordered by clean %" in render(bare, "md")
    mixed = render([*four(), *bare], "md", Choice("robust_accuracy_l2"))
    assert "Ordered by robust" in mixed and "Ordered by clean %" in mixed, "each by what it has"


def test_notes_are_refused_where_there_are_none(run: Run, tmp_path: Path) -> None:
    for record in four():
        write_record(tmp_path / "toy" / "runs", record, {})
    for words in (("--format", "csv"), ("-o", str(tmp_path / "a.json"))):
        code, _, text = run("leaderboard", tmp_path, "--notes", *words)
        assert code == 2 and text.startswith("error: --notes: there are none in ")


def test_the_name_of_the_file_says_its_format(run: Run, tmp_path: Path) -> None:
    for record in four():
        write_record(tmp_path / "toy" / "runs", record, {})
    for form, start in (("md", "## toy"), ("tex", "% "), ("html", "<!doctype"), ("csv", "suite,"), ("json", "[")):
        code, text, _ = run("leaderboard", tmp_path, "-o", tmp_path / f"table.{form}")
        assert code == 0 and text == "" and (tmp_path / f"table.{form}").read_text().startswith(start)
    code, _, _ = run("leaderboard", tmp_path, "--format", "csv", "-o", tmp_path / "table.txt")
    assert code == 0 and (tmp_path / "table.txt").read_text().startswith("suite,")
    code, _, text = run("leaderboard", tmp_path, "-o", tmp_path / "table.xlsx")
    assert code == 2 and text.startswith("error: -o ") and "should end in .md, .csv, .tex, .html, .json" in text


def of_suites(records: list[Record]) -> list[Board]:
    return boards(records, Choice(), {})


def test_suites_of_one_name_are_boards_of_their_own(run: Run, tmp_path: Path) -> None:
    """Another fingerprint under the same name, in another folder: never one table."""
    other = {"suite": "e" * 64}
    first = [a_record("ce", 0, 0.6), a_record("svm", 0, 0.7)]
    second = [a_record("ce", 0, 0.8, identity=other), a_record("ibp", 0, 0.9, identity=other)]
    third = [a_record("ce", 0, 0.5, identity={"suite": "a" * 64}, suite=a_suite("alone"))]
    found = of_suites([*first, *second, *third])
    assert [board.title.partition(":")[0] for board in found] == ["alone", f"toy ({'e' * 8})", f"toy ({'f' * 8})"]
    assert [[str(row.facts["method"]) for row in board.rows] for board in found] == [
        ["ce"],
        ["ibp", "ce"],
        ["svm", "ce"],
    ]
    for folder, records in (("a", first), ("b", second)):
        for record in records:
            write_record(tmp_path / folder / "toy" / "runs", record, {})
    code, text, _ = run("leaderboard", tmp_path / "a", tmp_path / "b", tmp_path / "a" / "toy")
    assert code == 0 and text.count("## toy (") == 2 and text.count("| ce (baseline)") == 2


def test_a_column_of_one_suite_may_be_asked_for() -> None:
    probe = Column("probe_rate", "probe %", 100, 1)
    metrics = {"points": 10.0, "clean_accuracy": 0.5, "probe_rate": 0.125}
    records = [a_record("ce"), a_record("ce", identity={"suite": "a" * 64}, metrics=metrics, columns=[probe])]
    for choice in (Choice(columns=["probe_rate"]), Choice(by="probe_rate")):
        text = render(records, "md", choice)
        assert text.count("probe %") >= 1 and text.count("12.5") == 1 and text.count("| ce (baseline)") == 2
        assert {render(records, form, choice) for form in FORMATS}


def test_what_does_not_count_is_below_and_marked_whatever_it_measured() -> None:
    """It has no group either, though the standing of its row is that of the version that counts."""
    new = {"revision": 2}
    records = [a_record("ce", 0, 0.5), a_record("pmm", 0, 0.9), a_record("pmm", 0, 0.6, identity=new)]
    known = {("f" * 64, name): {DEFAULT_SORT: standing(1, "a", 1)} for name in ("ce", "pmm")}
    (board,) = boards(records, Choice(), known)
    assert [(row.facts["method"], row.mark) for row in board.rows] == [("ce", ""), ("pmm", ""), ("pmm", "stale")]
    assert board.of(board.rows[1]) and board.of(board.rows[2]) is None
    assert [record.metrics["clean_accuracy"] for record in board.counted] == [0.5, 0.6]
    last = render(records, "md", known=known).splitlines()[6]
    assert last.split("|")[1].strip() == "pmm" and "stale" in last and "90.0 a" not in last and "**" not in last


def test_rows_of_one_group_stand_by_name() -> None:
    groups = {"ibp": (1, "a"), "arcface": (1, "a"), "svm": (2, "b"), "ce": (2, "b")}
    known = {("f" * 64, name): {DEFAULT_SORT: standing(g, letters, g)} for name, (g, letters) in groups.items()}
    (board,) = boards([*four(), a_failure("none")], Choice(), known)
    assert [row.facts["method"] for row in board.rows] == ["arcface", "ibp", "ce", "svm", "none"]
    (board,) = boards(four(), Choice(top=1), known)
    assert [row.facts["method"] for row in board.rows] == ["ibp", "ce"], "the best mean, not the first name"
