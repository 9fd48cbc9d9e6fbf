"""Pages say where rows stand: letters and ranks, differences to the baseline, the best in bold. LaTeX reads them."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made import a_failure, a_record, a_suite, standing

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.benchmarks.tables.standing import Standing

HARD = [  # names, titles, notes and errors that a format could trip over
    a_record("ce", 0, notes=["50 % of [conv1] & <b>_x_</b> ~ ^ \\ # $ { } | €"]),
    a_record("[bold]net[/bold], v2", 0, 0.95, doubts={"weak_attack": "12"}, explanations={"weak_attack": "Too <far>."}),
    a_record("infinite", 0, metrics={"points": 10.0, "margin_upper_l2": math.inf, "robust_accuracy_l2": 1.0}),
    a_record("nothing", 0, metrics={"points": 10.0, "margin_upper_l2": math.nan}),
    replace(a_failure("svm"), error="KeyError: 'no | [/head] in <conv1>' & \\more"),
]
KNOWN = {
    ("f" * 64, "ce"): {DEFAULT_SORT: standing(2, "b", 2, difference=math.nan, difference_low=math.nan)},
    ("f" * 64, "[bold]net[/bold], v2"): {DEFAULT_SORT: standing(1, "ab", 1, mean=0.95, low=0.945, high=0.955)},
    ("f" * 64, "infinite"): {DEFAULT_SORT: standing(1, "a", 1, mean=1.0, low=0.97, high=1.0, p=0.06)},
}


def hard(count: int = len(HARD)) -> list[Record]:
    return [replace(record, suite=a_suite(title="toy_suite 100% <i>&amp;</i>")) for record in HARD[:count]]


def lines(form: str = "md") -> dict[str, str]:
    """By row."""
    return {line.split("|")[1].strip(): line for line in render(hard(), form, known=KNOWN).splitlines() if "|" in line}


def test_markdown_shows_letters_ranks_differences_and_the_best() -> None:
    rows = lines()
    header = [cell.strip() for cell in rows["method"].split("|")]
    assert header[1:6] == ["method", "robust % L2 0.5", "rank", "to ce", "clean %"]
    cells = {name: [cell.strip() for cell in line.split("|")][2:5] for name, line in rows.items()}
    assert cells["ce (baseline)"] == ["90.0 ± 0.5 b", "2–3", "—"]
    assert cells["[bold]net[/bold], v2"] == ["95.0 ± 0.5 ab", "1–2", "+2.0* [+1.0, +3.0]"]
    assert cells["infinite"] == ["**100.0 [97.0, 100.0]** a", "1–2", "+2.0 [+1.0, +3.0]"], "near 1 both ends are shown"
    assert cells["svm"] == ["—", "—", "—"] and "FAILED 1x: KeyError" in rows["svm"]
    text = render(hard(), "md", known=KNOWN)
    assert "Rows that share a letter cannot be told apart" in text and "weak_attack: Too <far>." in text
    assert "[low, high] where it is not symmetric, as of shares near 0 and 100 % (Clopper and Pearson's)" in text
    even = {key: value for key, value in KNOWN.items() if key[1] != "infinite"}
    assert "not symmetric" not in render(hard(), "md", known=even)
    letters = [line.split("|")[2].rstrip() for line in rows.values() if re.search(r" [ab]+ +\|", line)]
    assert len({re.search(r"[ab]+$", cell).start() for cell in letters}) == 1 < len(letters), "below each other"  # type: ignore[union-attr]
    assert "which differences are real is not known" in render(hard(), "md") and "rank" not in render(hard(), "md")


def test_each_end_of_a_margin_has_its_own_best() -> None:
    metrics = [
        {"points": 1.0, "margin_lower_l2": low, "margin_upper_l2": high} for low, high in ((0.1, 0.4), (0.2, 0.3))
    ]
    text = render([a_record(name, metrics=each) for name, each in zip("ab", metrics, strict=True)], "md")
    assert "[0.100, **0.400**]" in text and "[**0.200**, 0.300]" in text
    assert "**" not in render([a_record("a", metrics=metrics[0])], "md"), "of one row nothing is the best"


def test_a_fact_that_all_rows_share_is_no_column() -> None:
    same = [a_record("ce"), a_record("svm")]
    text = render(same, "md")
    assert "1 network (seed) a row, 10 test images; bold" in text and not re.search(r"\| +(n|points) \|", text)
    text = render([*same, a_record("svm", 1), a_record("mma", metrics={"points": 7.0})], "md")
    assert re.search(r"\| +n \| +points \|", text) and "n networks (seeds) a row, `points` test images; ±" in text


def test_csv_and_json_hold_what_is_known_of_the_standing() -> None:
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(render(hard(), "csv", known=KNOWN)))}
    of = {name.removeprefix(f"{DEFAULT_SORT}_"): value for name, value in rows["infinite"].items()}
    assert (of["letters"], of["group"], of["best_rank"], of["worst_rank"], of["p"]) == ("a", "1", "1", "2", "0.06")
    assert rows["ce"][f"{DEFAULT_SORT}_difference"] == "" and rows["svm"][f"{DEFAULT_SORT}_group"] == ""
    found = {row["method"]: row for row in json.loads(render(hard(), "json", known=KNOWN))}
    assert found["infinite"][f"{DEFAULT_SORT}_group"] == 1 and found["svm"][f"{DEFAULT_SORT}_letters"] is None
    assert found["ce"][f"{DEFAULT_SORT}_difference_low"] is None
    assert f"{DEFAULT_SORT}_group" not in render(hard(), "csv"), "nothing is known without it"


class Cells(HTMLParser):
    """Reads the rows of the tables, complains of tags that do not match, and of all that would be loaded or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "b", "i", "bold")
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_html_is_one_table_that_runs_and_loads_nothing() -> None:
    text = render(hard(), "html", known=KNOWN)
    header, *rows = Cells(text).rows
    assert {len(row) for row in rows} == {len(header)} and len(rows) == len(HARD)
    assert rows[0][:2] == ["[bold]net[/bold], v2", "95.0 ± 0.5 ab"]
    assert "<strong>100.0 [97.0, 100.0]</strong> <sup>a</sup>" in text
    assert "&lt;conv1&gt;" in rows[-1][-1] or "<conv1>" in rows[-1][-1]
    assert "http" not in text and "url(" not in text


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("count", "by"),
    [(1, DEFAULT_SORT), (1, "method"), *((len(HARD), by) for by in (DEFAULT_SORT, "margin_upper_l2", "method"))],
)
def test_every_format_takes_hard_rows_in_every_order(form: str, count: int, by: str) -> None:
    known = {key: {by: of[DEFAULT_SORT]} for key, of in KNOWN.items()} if by != "method" else {}
    text = render(hard(count), form, Choice(by), known)
    assert len(text) > 100 and "nan" not in text.lower().replace("nan_", "")


def test_latex_has_letters_above_bold_and_rules() -> None:
    text = render(hard(), "tex", known=KNOWN)
    assert r"\textbf{100.0 {[}97.0, 100.0]}\textsuperscript{a}" in text and r"\toprule" in text
    assert r"\label{tab:toy}" in text and "1--2" in text and r"90.0 $\pm$ 0.5\textsuperscript{b}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-recommended)")
@pytest.mark.parametrize("known", [KNOWN, {}], ids=["groups", "no groups"])
@pytest.mark.parametrize("columns", [(), ("clean_accuracy",)], ids=["wide", "narrow"])
@pytest.mark.parametrize("rows", [len(HARD), 57])
def test_a_real_latex_reads_it(
    tmp_path: Path, known: dict[tuple[str, str], dict[str, Standing]], columns: tuple[str, ...], rows: int
) -> None:
    records = [*hard(), *(a_record(f"row_{i}", suite=hard()[0].suite) for i in range(rows - len(HARD)))]
    table = render(records, "tex", Choice(columns=columns), known)
    packages = re.search(r"\\usepackage\{[\w,]+\}", table)
    assert packages, "the table says what it needs"
    start = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n" + packages[0]
    (tmp_path / "t.tex").write_text(f"{start}\n\\begin{{document}}\n{table}\n\\end{{document}}\n", encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (
        "Overfull" not in done.stdout and "too large" not in done.stdout and (tmp_path / "t.pdf").stat().st_size > 1000
    )
