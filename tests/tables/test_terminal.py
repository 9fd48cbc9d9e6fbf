"""A terminal shows what fits its width: fewer columns, the rows that matter, and how to see the rest."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made import a_failure, a_record, a_suite, standing
from processes import MARGINBENCH, Start
from support import Run

from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.tables.board import boards
from marginbench.benchmarks.tables.cells import PageColumn, Span
from marginbench.benchmarks.tables.choice import EVERYTHING, Choice
from marginbench.benchmarks.tables.leaderboard import DEFAULT_SORT
from marginbench.benchmarks.tables.terminal import BEST, FIRST, LAST, SHORT, View, fitting, show, show_page, shown_rows

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "results" / "reference" / "digits"  # 56 rows
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def a_column(header: str, *texts: str) -> PageColumn:
    return PageColumn(header, [(Span(text),) for text in texts])


TABLE = [
    a_column("method", "ce (baseline)", "jacobian_reg"),  # 13 characters
    a_column("robust % L2 0.5", "49.8 ± 2.0 b", "65.9 ± 1.4 a"),  # 12
    a_column("rank", "2", "1"),  # 4
    a_column("to ce", "—", "+16.1*"),  # 6
    a_column("clean %", "97.3 ± 2.0", "97.6 ± 1.1"),  # 10
    a_column("margin L2", "[0.270, 0.486]", "[0.337, 0.611]"),  # 14
    a_column("cost", "1.00", "2.17"),  # 4
    a_column("n", "3", "3"),  # 1
]
WHOLE = 13 + 12 + 4 + 6 + 10 + 14 + 4 + 1 + 7 * 2


@pytest.mark.parametrize(
    ("width", "lost"),
    [
        (200, []),
        (WHOLE, []),
        (WHOLE - 1, ["n"]),
        (WHOLE - 4, ["cost", "n"]),
        (WHOLE - 10, ["margin L2", "cost", "n"]),
        (WHOLE - 26, ["clean %", "margin L2", "cost", "n"]),
        (37, ["to ce", "clean %", "margin L2", "cost", "n"]),
        (10, ["to ce", "clean %", "margin L2", "cost", "n"]),
    ],
)
def test_columns_are_left_out_until_the_rest_fits(width: int, lost: list[str]) -> None:
    assert fitting(TABLE, width) == [column for column in TABLE if column.header not in lost]


def test_of_columns_that_were_asked_for_the_last_go_first() -> None:
    table = [*TABLE[:4], TABLE[7], TABLE[6], TABLE[4]]
    assert fitting(table, 52, in_order=True) == table[:6]
    assert fitting(table, 10, in_order=True) == table[:4], "rank and difference belong to what orders the rows"


def many(count: int) -> list[Record]:
    """The best first: a00, a01, ...; the baseline stands behind a29."""
    records = [a_record(f"a{place:02}", 0, 0.9 - 0.01 * place) for place in range(count)]
    return [*records, a_record("ce", 0, 0.605)]


def shown(records: Sequence[Record], asked: Sequence[str] = (), choice: Choice = EVERYTHING) -> list[str]:
    (board,) = boards(records, choice, {})
    places = shown_rows(board, asked)
    return ["..." if place is None else str(board.rows[place].facts["method"]) for place in places]


def test_first_and_last_rows_the_baseline_and_those_asked_for_are_shown() -> None:
    assert (FIRST, LAST) == (10, 3)
    first = [f"a{place:02}" for place in range(10)]
    assert shown(many(57)) == [*first, "...", "ce", "...", "a54", "a55", "a56"]
    assert shown(many(57), ["a30", "a53", "a20"]) == [
        *first,
        "...",
        "a20",
        "...",
        "ce",
        "a30",
        "...",
        "a53",
        "a54",
        "a55",
        "a56",
    ]
    assert shown(many(57), ["a11"]) == [*first, "a10", "a11", "...", "ce", "...", "a54", "a55", "a56"], (
        "one alone is no gap"
    )
    assert "..." not in shown(many(SHORT - 1)) and "..." in shown(many(SHORT + 3))
    assert "..." not in shown(many(57), (), Choice(top=40)) and len(shown(many(57), (), Choice(top=40))) == 40
    assert shown(many(57), (), Choice(methods=["a30", "a40"])) == ["a30", "a40"]
    assert shown([a_record("ce")]) == ["ce"]


def test_the_best_group_is_shown_as_far_as_it_is_not_long_and_the_best_mean() -> None:
    """By name the best means may stand anywhere in their group."""
    records = many(57)
    for size, first in ((5, FIRST), (14, 14), (40, FIRST)):
        groups = {f"a{place:02}": 1 if place >= 57 - size else 2 for place in range(57)}  # means say the contrary
        known = {
            ("f" * 64, name): {DEFAULT_SORT: standing(1, "ab"[group - 1], group)} for name, group in groups.items()
        }
        (board,) = boards(records, EVERYTHING, known)
        places = shown_rows(board, ())
        assert places[:first] == [*range(first)] and (first not in places or first == size)
        shown = {str(board.rows[place].facts["method"]) for place in places if place is not None}
        assert {f"a{place:02}" for place in range(BEST)} <= shown


def test_letters_have_one_width_so_that_numbers_stand_below_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    letters = {"a00": "a", "a01": "abcd", "ce": ""}
    known = {("f" * 64, name): {DEFAULT_SORT: standing(1, text, 1)} for name, text in letters.items()}
    show([*many(2), a_failure("none")], known=known)
    lines = COLOUR.sub("", capsys.readouterr().out).splitlines()
    rows = [line[:40] for line in lines if line.startswith(("a0", "ce", "none"))]
    assert len({line.index(" ± ") for line in rows[:3]}) == 1 and rows[3].index("—") == rows[0].index(" ± ") + 5


def test_rows_that_failed_or_do_not_count_are_no_last_rows() -> None:
    old = [replace(record, identity=replace(record.identity, revision=0)) for record in many(57)[:30]]
    old = [replace(record, id=record.identity.id) for record in old]
    records = [*many(57), *old, a_failure("zzz")]
    assert shown(records)[-4:] == ["a54", "a55", "a56", "..."]
    assert shown([a_failure(f"f{i:02}") for i in range(57)], ["f30"]) == ["...", "f30", "..."]


Terminal = Callable[..., str]


@pytest.fixture
def in_terminal(start: Start, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What the command prints on a terminal of some width."""

    def call(width: int, *words: str | Path, **variables: str) -> str:
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **variables}.items():
            monkeypatch.setenv(name, value)
        ours, theirs = pty.openpty()
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
            process = start(MARGINBENCH, *words, terminal=os.ttyname(theirs))
            shown = b""
            while process.alive or select.select([ours], [], [], 0)[0]:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 65536)
        finally:
            os.close(ours)
            os.close(theirs)
        assert process.wait() == 0, shown
        return shown.decode().replace("\r\n", "\n")

    return call


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_board_of_56_rows_fits_a_terminal(width: int, in_terminal: Terminal) -> None:
    text = COLOUR.sub("", in_terminal(width, "leaderboard", DIGITS))
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and len(lines) < 45
    rows = [line.split()[0] for line in lines if " ± " in line and "[" not in line[:40]]
    assert "ce" in rows and "⋮" in text and "Not shown:" in text and "--top 56" in text and "(--notes)" in text
    assert "rank" in text and "† quantise: gradient_mismatch 3/3" in text
    assert ("margin L2" in text.partition("Not shown")[0]) == (width == 200)


def test_hints_lead_to_all_of_it(in_terminal: Terminal) -> None:
    text = COLOUR.sub("", in_terminal(80, "leaderboard", DIGITS, "--top", "56", "--notes"))
    assert "⋮" not in text and "gradient_mismatch: Gradients are not the slopes" in text and "(--notes)" not in text
    assert sum(" ± " in line for line in text.splitlines()) >= 56
    text = COLOUR.sub(
        "", in_terminal(80, "leaderboard", DIGITS, "--columns", "margin_upper_l2,cost", "--methods", "mma")
    )
    assert "margin L2," in text and "cost" in text and "robust %" in text and "clean %" not in text


def test_groups_have_colours_and_no_colour_is_honoured(in_terminal: Terminal) -> None:
    text = in_terminal(120, "leaderboard", DIGITS)
    assert len(set(re.findall(r"38;5;\d+", text))) > 1
    plain = in_terminal(120, "leaderboard", DIGITS, NO_COLOR="1")
    assert "38;5" not in plain and COLOUR.sub("", plain) == COLOUR.sub("", text)
    assert "\x1b" not in in_terminal(120, "leaderboard", DIGITS, TERM="dumb")


@pytest.mark.parametrize("words", [("compare", "mma", "ce", DIGITS), ("claims", DIGITS)], ids=["compare", "claims"])
def test_other_tables_fit_too(words: Sequence[str | Path], run: Run, in_terminal: Terminal) -> None:
    text = COLOUR.sub("", in_terminal(80, *words))
    assert max(map(len, text.splitlines())) <= 80 and "|" not in text and "##" not in text
    code, piped, _ = run(*words)
    assert code == 0 and "\x1b" not in piped
    first = "clean %" if words[0] == "compare" else "cutout"
    assert f"\n {first} " in text and f"\n| {first} " in piped
    assert ("DeVries, Taylor" in piped) == (words[0] == "claims") and "DeVries" not in text


def test_margins_fit_and_say_what_they_leave_out(run: Run, in_terminal: Terminal) -> None:
    folder = DIGITS.parent / "digits_exact"
    text = COLOUR.sub("", in_terminal(60, "margins", folder))
    assert max(map(len, text.splitlines())) <= 60 and "|" not in text and "##" not in text and "**" not in text
    words = " ".join(text.split())
    assert "\n crown " in text and "above, points, networks (a wider terminal, -o FILE.md" in words
    assert "Not shown" not in COLOUR.sub("", in_terminal(200, "margins", folder))
    code, piped, _ = run("margins", folder)
    assert code == 0 and "\n| crown " in piped and "| networks |" in " ".join(piped.split())


def test_a_page_shows_signs_of_markdown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_page("| name |\n|:-----|\n| _a_ <b>*c*</b> [d](e) |\n\n- **p** < 0.05 [+1, +2]\n")
    text = COLOUR.sub("", capsys.readouterr().out)
    assert "_a_ <b>*c*</b> [d](e)" in text and "p < 0.05 [+1, +2]" in text


def test_elsewhere_all_of_it_is_printed_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    show(many(57), view=View(asked=["a30"]))
    text = capsys.readouterr().out
    assert text.count("| a") == 57 and "\x1b" not in text and "⋮" not in text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_hard_rows_fit(width: int, tmp_path: Path, in_terminal: Terminal) -> None:
    """Names with brackets and of any length, errors of any length, no numbers, and infinite ones."""
    suite = a_suite(title="a [bold]title[/bold]")
    note = "see [conv1] and :smile:"
    infinite = {
        "points": 10.0,
        "robust_accuracy_l2": 0.5,
        "margin_upper_l2": float("inf"),
        "clean_accuracy": float("nan"),
    }
    records = [
        a_record("ce", suite=suite, notes=[note]),
        a_record(
            "[bold]net[/bold] with a name that is far too long", 0, 0.95, suite=suite, doubts={"weak_attack": "1"}
        ),
        a_record("infinite", suite=suite, metrics=infinite),
        replace(a_failure("svm", suite=suite), error="no [/head] in [conv1] " + "and so on " * 30),
        replace(a_failure("pmm", suite=suite), error="no [/head] in [conv1] " + "and so on " * 30),
    ]
    for record in records:
        write_record(tmp_path / "toy" / "runs", record, {})
    text = COLOUR.sub("", in_terminal(width, "leaderboard", tmp_path, "--notes"))
    assert max(map(len, text.splitlines())) <= width
    one_line = " ".join(text.split())
    assert "a [bold]title[/bold]" in one_line and note in one_line
    assert "† pmm, svm: FAILED 1x: no [/head] in [conv1]" in one_line
    assert "FAILED" not in one_line.replace("FAILED", "", 1), "one line for all that failed alike"
    assert "[bold]net[/bold]withanamethatisfartoolong" in re.sub(r"\s|[\d.—]", "", one_line)
    if width == 200:
        assert "[—, ∞]" in text


def test_a_command_that_made_records_says_how_to_see_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(many(57), view=View(asked=["a30"], command="marginbench leaderboard out/toy"))
    text = " ".join(capsys.readouterr().out.split())
    assert " a30 " in text and " a31 " not in text
    assert "These are options of: marginbench leaderboard out/toy" in text


def test_ties_in_colour_are_told_by_letters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    known = {("f" * 64, f"a{i:02}"): {DEFAULT_SORT: standing(i + 1, "abcdefg"[i], i + 1)} for i in range(7)}
    show(many(7), known=known)
    lines = COLOUR.sub("", capsys.readouterr().out).splitlines()
    rows = [line.split() for line in lines if " ± " in line and line.startswith("a")]
    assert [row[4] for row in rows] == list("abcdefg")
