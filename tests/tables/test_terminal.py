"""A terminal that is too narrow for a table loses columns, the least interesting ones first, and not their letters."""

import sys
from dataclasses import replace

import pytest
from made import a_failure, a_record, a_suite

from marginbench.benchmarks.tables.render import fitting, show

TABLE = [
    ["method", "n", "points", "clean %", "robust % L2 0.5", "margin L2", "cost", "doubts"],
    ["ce", "3", "360", "97.3 ± 2.0", "49.8 ± 2.0", "[0.270,\n0.486]", "1.00", "none"],
    ["jacobian_reg", "3", "360", "97.6 ± 1.1", "65.9 ± 1.4", "[0.337,\n0.611]", "2.17", "FAILED 1x: diverged: loss"],
]


@pytest.mark.parametrize(
    ("width", "lost"),
    [
        (200, set()),
        (90, set()),
        (80, {"points"}),
        (72, {"points", "n"}),
        (66, {"points", "n", "cost"}),
        (60, {"points", "n", "cost", "margin L2"}),
        (10, {"points", "n", "cost", "margin L2"}),
    ],
)
def test_columns_are_left_out_until_the_rest_fits(width: int, lost: set[str]) -> None:
    header, *lines = fitting(TABLE, width)
    assert set(TABLE[0]) - set(header) == lost
    for line, whole in zip(lines, TABLE[1:], strict=True):
        assert line == [cell for cell, name in zip(whole, TABLE[0], strict=True) if name not in lost]


def test_a_terminal_shows_brackets_and_colons_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    suite = a_suite(title="a [bold]title[/bold]")
    note = "see [conv1] and :smile:"
    show(
        [
            a_record("ce", suite=suite, notes=[note]),
            replace(a_failure("svm", suite=suite), error="no [/head] in [conv1]"),
        ]
    )
    text = capsys.readouterr().out
    assert "a [bold]title[/bold]" in text and note in text
    assert "FAILED 1x: no [/head] in [conv1]" in text
