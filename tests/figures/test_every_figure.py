"""What all figures have in common: they are found, take the page's theme, and stay small."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from altair.utils import schemapi
from altair.utils.schemapi import debug_mode
from figure_support import marks, specification, texts

from marginbench.benchmarks.figures.draw import drawn, plot
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.figures.scan import FIGURES, Figure
from marginbench.benchmarks.figures.theme import DARK, LIGHT, config
from marginbench.benchmarks.records.reader import read_folders
from marginbench.methods.errors import MarginbenchError, ParameterError

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
OF_A_SUITE = sorted(name for name, figure in FIGURES.items() if figure.of == "suite")
LARGEST = 1_300_000  # bytes of all figures of a suite with 57 rows and three seeds, in both norms


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_figure_says_in_a_line_what_it_shows(name: str) -> None:
    about = FIGURES[name].about
    assert about.endswith(".") and len(about) < 110


@pytest.mark.parametrize("name", OF_A_SUITE)
def test_picked_rows_alone_have_colours(name: str, board: Path) -> None:
    chart = plot(name, board, picked=["pgd_at", "mixup"])
    assert specification(chart)["params"] == [{"name": "picked", "value": ["pgd_at", "mixup"]}]
    assert colours(chart) == set(LIGHT[:2])
    assert {"pgd_at", "mixup"} <= set(texts(chart))


@pytest.mark.parametrize("name", OF_A_SUITE)
def test_channels_name_their_class(name: str, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bare string Altair finds the class by hashing its whole schema, hundreds of times a report."""

    def found(self: object, *arguments: Any, **more: Any) -> Any:
        raise AssertionError(f"a channel is a bare string: {arguments}")

    monkeypatch.setattr(schemapi._FromDict, "__init__", found)
    assert drawn(FIGURES[name], board, {}).to_dict(validate=False)["layer"]


@pytest.mark.parametrize("name", OF_A_SUITE)
def test_a_page_picks_other_rows_and_another_theme(name: str, board: Path) -> None:
    spec = specification(drawn(FIGURES[name], board, {}))
    assert not re.search('"#[0-9a-f]{3,6}"', json.dumps(spec)), "colours belong to the theme"
    spec["params"][0]["value"] = ["pgd_at", "mixup", "arcface(m=0.3)"]
    page = Page({**spec, "config": config(dark=True), "width": 400})
    shown = [row for row in spec["params"][0]["value"] if row in texts(page)]
    assert {"pgd_at", "mixup"} <= set(shown)
    assert colours(page) == set(DARK[: len(spec["params"][0]["value"])])


@pytest.mark.parametrize("name", OF_A_SUITE)
def test_nothing_need_be_picked(name: str, board: Path) -> None:
    assert marks(plot(name, board, picked=[]))["title"] == 1


def test_all_figures_of_the_largest_suite_are_small() -> None:
    rows = rows_of(read_folders([REFERENCE / "digits"]))
    size = 0
    with debug_mode(False):  # as reports draw: the other tests see that charts are valid
        for name in OF_A_SUITE:
            for options in variants(FIGURES[name]):
                spec = drawn(FIGURES[name], rows, options).to_dict(validate=False)
                size += len(json.dumps(spec, ensure_ascii=False).encode())
    assert len(rows.runs) >= 56
    assert 50_000 < size < LARGEST


def test_records_of_older_rules_are_drawn() -> None:
    """Of schema 2: they have neither places of the images nor learning curves."""
    rows = rows_of(REFERENCE / "mnist")
    assert marks(plot("accuracy_curves", rows, picked=["ce"]))["line mark"] >= len(rows.runs)
    with pytest.raises(MarginbenchError, match="--curve-every"):
        plot("learning_curves", rows)


def test_several_suites_are_never_mixed() -> None:
    with pytest.raises(ParameterError, match="digits, digits_exact, digits_smooth, mnist"):
        plot("cost", REFERENCE)
    assert "digits_exact: robust accuracy L2 0.5" in texts(plot("cost", REFERENCE, suite="digits_exact", picked=["ce"]))
    with pytest.raises(ParameterError, match="did you mean 'digits_exact'"):
        plot("cost", REFERENCE, suite="digit_exact")


def test_wrong_options_are_named(board: Path) -> None:
    with pytest.raises(ParameterError, match=r"column.*accuracy_curves has no such option: it has suite, picked, norm"):
        plot("accuracy_curves", board, column="cost")
    with pytest.raises(ParameterError, match=r"mna.*did you mean 'mma'"):
        plot("accuracy_curves", board, picked=["ce", "mna"])
    with pytest.raises(ParameterError, match="40 to 1000 mm"):
        plot("accuracy_curves", board, width=3)
    with pytest.raises(ParameterError, match="norm='l1': should be l2 or linf"):
        plot("accuracy_curves", board, norm="l1")
    with pytest.raises(MarginbenchError, match="unknown figure 'accuracy_curve': did you mean"):
        plot("accuracy_curve", board)


class Page:
    """A chart as a page changes it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec

    def to_dict(self) -> dict[str, Any]:
        return self._spec


def colours(chart: Any) -> set[str]:
    """Of rows: those of the theme's list that the drawing uses."""
    from marginbench.benchmarks.figures.save import svg

    return {colour for colour in re.findall('"(#[0-9a-f]{6})"', svg(chart)) if colour in (*LIGHT, *DARK)}


def variants(figure: Figure) -> list[dict[str, Any]]:
    """A figure as the report has it: in both norms, where it has one."""
    norms = ("l2", "linf")
    if "norm" in figure.options:
        return [{"norm": norm} for norm in norms]
    if "column" in figure.options:
        return [{"column": f"{kind}_accuracy_{norm}"} for kind in ("robust", "certified") for norm in norms]
    return [{}]
