"""Figures of plain numbers: critical differences, and what predicts what."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from figure_support import data_of, drawing, marks, texts, write_row
from made import EPSILON

from marginbench.benchmarks.figures.critical_difference import diagram
from marginbench.benchmarks.figures.draw import dressed, plot
from marginbench.benchmarks.figures.heat_map import heat_map
from marginbench.methods.errors import MarginbenchError, ParameterError

RANKS = {"mma": 1.5, "omma": 1.75, "pgd_at": 2.75, "mixup": 4.25, "ce": 4.75}


def test_rows_that_cannot_be_told_apart_share_a_bar() -> None:
    cliques = [["mma", "omma", "pgd_at"], ["pgd_at", "mixup"], ["ce"]]
    chart = dressed(diagram(RANKS, cliques, ["ce"], "toy"))
    bars = data_of(chart, "low")
    assert [(bar["low"], bar["high"]) for bar in bars] == [(1.5, 2.75), (2.75, 4.25)], "none for a row alone"
    assert marks(chart)["rule mark"] == 2 * len(RANKS) + len(bars)
    assert [text for text in texts(chart) if text in RANKS] == [*RANKS, "ce"], "sides, then the legend"


def test_the_best_rank_stands_on_the_left() -> None:
    chart = dressed(diagram(RANKS, [], [], "toy"))
    lines = {line["row"]: line for line in data_of(chart, "rank")}
    assert [row for row, line in lines.items() if line["left"]] == ["mma", "omma", "pgd_at"]
    assert lines["mma"]["y"] < lines["omma"]["y"] < lines["pgd_at"]["y"] and lines["ce"]["y"] < lines["mixup"]["y"]


def test_average_ranks_are_those_of_the_suites(tmp_path: Path) -> None:
    for i in range(3):
        suite = {"name": f"toy{i}", "title": "", "evaluation": {"epsilon": EPSILON}}
        for row, strength in {"ce": 0.5, "mixup": 0.7, "mma": 1.0}.items():
            write_row(tmp_path, row, strength, suite=suite, identity={"suite": str(i) * 64})
    write_row(tmp_path, "ibp", 0.5, suite=suite, identity={"suite": "2" * 64})
    chart = plot("critical_difference", tmp_path)
    assert {line["row"]: line["rank"] for line in data_of(chart, "rank")} == {"mma": 1, "mixup": 2, "ce": 3}
    assert "robust accuracy L2 across 3 suites" in texts(chart)
    assert "With 3 suites no pair of rows can be told apart" in " ".join(texts(chart))
    (bar,) = data_of(chart, "low")
    assert (bar["low"], bar["high"]) == (1, 3), "three suites show nothing"
    with pytest.raises(ParameterError, match="no such row in all suites"):
        plot("critical_difference", tmp_path, picked=["ibp"])
    with pytest.raises(ParameterError, match="no such column"):
        plot("critical_difference", tmp_path, column="robust")


def test_evaluations_of_the_same_networks_are_one_suite_of_the_diagram(tmp_path: Path) -> None:
    """Two data sets, of which one is evaluated twice and shared by two suites."""
    for place, (name, network, data) in enumerate(
        (
            ("toy", "toy", "digits"),
            ("toy+points=7", "toy", "digits"),
            ("wide", "wide", "digits"),
            ("mnist", "m", "mnist"),
        )
    ):
        suite = {"name": name, "title": "", "data": {"name": data}, "evaluation": {"epsilon": EPSILON}}
        for row, strength in {"ce": 0.5, "mma": 1.0}.items():
            identity = {"suite": str(place) * 64, "training": f"{row} of {network}"}
            write_row(tmp_path, row, strength, suite=suite, identity=identity)
    said = " ".join(texts(plot("critical_difference", tmp_path)))
    assert "across 3 suites" in said and "With 3 suites no pair" in said
    assert "toy and toy+points=7 share networks: they count as one suite, of which toy is ranked." in said
    assert "toy and wide share the data digits: they tell less than 2 suites of other data." in said
    for path in [*tmp_path.rglob("*.json")]:
        if json.loads(path.read_bytes())["suite"]["name"] in ("wide", "mnist"):
            path.unlink()
    with pytest.raises(MarginbenchError, match="evaluations of the same networks are one suite"):
        plot("critical_difference", tmp_path)


def test_one_suite_ranks_nothing_across_suites(board: Path) -> None:
    with pytest.raises(MarginbenchError, match="two suites or more"):
        plot("critical_difference", board)


def a_cell(measure: str, target: str, tau: float, half: float | None) -> dict[str, Any]:
    ends = {"low": None, "high": None} if half is None else {"low": tau - half, "high": tau + half}
    return {"measure": measure, "target": target, "tau": tau, **ends}


def test_bold_is_what_an_interval_tells_from_nothing() -> None:
    cells = [
        a_cell("output margin", "accuracy", 0.5, 0.2),
        a_cell("output margin", "gap", 0.5, 0.6),
        a_cell("attacked", "accuracy", -0.3, 0.2),
        a_cell("attacked", "gap", 0.25, None),
        a_cell("certified", "accuracy", float("nan"), None),
    ]
    chart = dressed(heat_map(cells, "toy"))
    values = data_of(chart, "tau")
    assert [value["sure"] for value in values] == [True, False, True, False, False]
    assert marks(chart)["rect mark"] == 4, "what was not measured stays empty"
    assert {"+0.50", "−0.30", "+0.25", "0.30 to 0.70", "−0.10 to 1.10", "−0.50 to −0.10"} <= set(texts(chart))


@pytest.mark.parametrize("width", [84.0, 170.0])
def test_a_cell_shows_its_interval_between_minus_1_and_1(width: float) -> None:
    cells = [
        a_cell("output margin", "accuracy", 0.5, 0.25),
        a_cell("output margin", "gap", 0.0, 1.0),
        a_cell("attacked", "accuracy", -0.5, 0.125),
        a_cell("attacked", "gap", 0.25, None),
    ]
    found = list(drawing(dressed(heat_map(cells, "toy"), width)).iter())
    boxes, zeros, bars = (
        [one for one in found if one.get("aria-roledescription") == role] for role in ("rect mark", "tick", "rule mark")
    )
    assert len(boxes) == 4 and len(zeros) == len(bars) == 3
    unit = 0.46 * float(re.findall(r"h([\d.]+)", boxes[0].get("d", ""))[0])
    for cell, zero, bar in zip(cells, zeros, bars, strict=False):
        tick = float(re.findall(r"M([\d.]+)", zero.get("d", ""))[0]) + 0.5
        start = float(re.findall(r"\(([\d.]+)", bar.get("transform", ""))[0])
        ends = [start - tick, start + float(bar.get("x2", "")) - tick]
        assert ends == pytest.approx([cell["low"] * unit, cell["high"] * unit], abs=1e-3)
        assert unit > 20 and float(bar.get("stroke-width", "")) > 2


def a_line(measure: str, target: str, across: float, shares: str = "images", suite: str = "toy") -> dict[str, Any]:
    of = {"suite": suite, "suite_fingerprint": suite[0] * 64, "over": "correct"}
    score = {"across": across, "across_low": across - 0.1, "across_high": across + 0.1, "across_shown": across > 0.5}
    return {**of, "measure": measure, "target": target, "shares": shares, **score}


@pytest.mark.parametrize("score", ["across", "within"])
def test_predictors_show_the_score_that_was_asked_for(score: str) -> None:
    numbers = {"across": (0.5, 0.25, 0.75, True), "within": (-0.25, -0.5, 0.125, False)}
    scores = {
        f"{name}{end}": value
        for name, values in numbers.items()
        for end, value in zip(("", "_low", "_high", "_shown"), values, strict=True)
    }
    chart = plot("predictors", pd.DataFrame([{**a_line("attacked_l2", "clean_accuracy", 0.0), **scores}]), score=score)
    (cell,) = data_of(chart, "tau")
    assert tuple(cell[key] for key in ("tau", "low", "high", "sure")) == numbers[score]


def test_what_predicts_what_is_read_off_the_table_of_margins() -> None:
    lines = [
        a_line("attacked_l2", "clean_accuracy", 0.25),
        a_line("output_margin", "clean_accuracy", 0.75),
        a_line("attacked_l2", "robust_accuracy_l2", 0.9, shares="bounds"),
        {**a_line("output_margin", "clean_accuracy", 0.1), "over": "all"},
        a_line("output_margin", "clean_accuracy", -0.5, suite="other"),
    ]
    frame = pd.DataFrame(lines)
    chart = plot("predictors", frame, suite="toy")
    seen = [(c["measure"], c["target"], c["tau"], c["sure"], c["pale"]) for c in data_of(chart, "tau")]
    assert seen == [
        ("output margin", "test accuracy", 0.75, True, False),
        ("attacked L2", "test accuracy", 0.25, False, False),
        ("attacked L2", "robust accuracy L2", 0.9, True, True),
    ]
    with pytest.raises(ParameterError, match="other, toy"):
        plot("predictors", frame)
    with pytest.raises(ParameterError, match="across or within"):
        plot("predictors", frame, suite="toy", score="tau")
    with pytest.raises(MarginbenchError, match="three methods"):
        plot("predictors", frame[:0])
