"""The table of a report, number by number, and what is said to be missing, on records made by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_support import write_row
from made import a_failure, a_record, a_tuning, standing
from scipy.special import stdtrit

from marginbench.benchmarks.records.current import marks
from marginbench.benchmarks.records.reader import read_folders
from marginbench.benchmarks.records.record import Record, SuiteFacts
from marginbench.benchmarks.reports import predictions as module
from marginbench.benchmarks.reports import suite_page
from marginbench.benchmarks.reports.board import Board, board, doubts
from marginbench.benchmarks.reports.origin import command, gaps
from marginbench.benchmarks.suites.schema import WHICH, load_suite
from marginbench.benchmarks.tables.leaderboard import rank
from marginbench.benchmarks.tables.margins import Networks
from marginbench.benchmarks.tables.standing import Standing

ROBUST = "robust_accuracy_l2"
CLEAN = {"ce": (0.5, 0.6, 0.7), "mma": (0.8, 0.9, 0.85), "pmm": (0.7, 0.72, 0.74), "svm": (0.4, 0.5)}


def made(standings: dict[str, dict[str, Standing]] | None = None) -> Board:
    runs = {row: [a_record(row, seed, clean) for seed, clean in enumerate(own)] for row, own in CLEAN.items()}
    return board(rank([record for own in runs.values() for record in own]), runs, standings or {})


def test_cells_hold_means_intervals_and_bars_on_one_scale() -> None:
    cells = {line.name: line.cells[ROBUST] for line in made().lines}
    ends = {}
    for row, values in CLEAN.items():
        half = float(stdtrit(2, 0.975)) * np.std(values, ddof=1) / np.sqrt(3) if len(values) == 3 else 0.0
        ends[row] = np.mean(values) + half * np.array([-1, 0, 1])
    least, most = min(own[0] for own in ends.values()), max(own[2] for own in ends.values())
    for row, (low, mean, high) in ends.items():
        cell, (start, middle, end) = cells[row], 100 * (np.array([low, mean, high]) - least) / (most - least)
        assert cell.value == pytest.approx(mean) and cell.bar is not None
        assert [cell.bar.start, cell.bar.mean] == pytest.approx([start, middle], abs=0.051)
        assert cell.bar.width == pytest.approx(end - start, abs=0.11)
        assert (cell.low, cell.high) == ((None, None) if row == "svm" else pytest.approx((low, high)))


def test_the_best_rows_are_those_of_the_first_group() -> None:
    def of(*groups: int) -> str:
        places = zip(("mma", "pmm", "ce", "svm"), groups, strict=False)
        return made({row: {ROBUST: standing(group, "a", group)} for row, group in places}).summary

    assert of(1, 1, 2, 2) == "By robust % L2 0.5, the first 2 rows cannot be told apart."
    assert of(1, 2, 2, 3) == "By robust % L2 0.5, mma is ahead of all others."
    assert of(1, 2, 2) == "By robust % L2 0.5, mma is ahead of all others that can be compared.", "svm has a mean"
    assert made().summary.startswith("Which differences are real is not known")


def on(day: int) -> str:
    return f"2026-01-{day:02}T00:00:00+00:00"


def test_doubts_and_titles_are_in_the_newest_words() -> None:
    def doubted(day: int, words: str) -> Record:
        of: dict[str, Any] = {"doubts": {"hunch": f"{day} points"}, "explanations": {"hunch": words}}
        record = a_record("ce", day, finished=on(day), **of)
        return replace(record, about=replace(record.about, title=words))

    records = [doubted(1, "Old."), doubted(3, "New."), doubted(2, "Older.")]
    (found,) = doubts(records)
    assert (found.name, found.runs, found.explanation) == ("hunch", 3, "New.")
    assert set(found.seen) == {"1 points", "2 points", "3 points"}
    (line,) = board(rank(records), {"ce": records}, {}).lines
    assert line.title == "New."


def test_networks_that_failed_are_missing() -> None:
    records = [a_record(row, seed) for row in ("ce", "mma") for seed in range(2)]
    records += [a_record("ce", 2), a_failure("mma", 2)]
    found = gaps(records, marks(records))
    assert (found.most, found.fewer) == (3, [("mma", 2)])
    assert [(row, seed) for row, seed, _ in found.failed] == [("mma", 2)]


def test_the_command_has_what_was_changed_and_all_seeds() -> None:
    settings = load_suite("smoke").model_dump(mode="json", exclude={"name", "title", *WHICH})
    settings["training"] = {**settings["training"], "epochs": 77}
    suite = SuiteFacts.of({"name": "smoke+training.epochs=77", "title": "t", **settings})
    words = command(suite.settings, [a_record("ce", seed, suite=suite) for seed in range(3)])
    assert words == ("marginbench run-all --suite smoke --set training.epochs=77 --methods ce --seeds 3")


def test_networks_count_once_in_what_predicts_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuned row that kept the default has those of the other row."""
    asked: list[list[str]] = []

    def predicted(networks: Networks) -> dict[str, Any]:
        asked.extend([network.record.method for network in suite] for suite in networks.suites)
        return {}

    for row, of, tuning in (("ce", "ce", None), ("mma", "mma", None), ("mma+tuned", "mma", a_tuning("mma", chosen=0))):
        for seed in range(2):
            trained = {"training": f"{of} {seed}"}
            write_row(tmp_path, row, 0.5, seed + 1, first=seed, identity=trained, tuning=tuning)
    monkeypatch.setattr(suite_page, "predictions", predicted)
    suite_page.suite_pages(read_folders([tmp_path]), suite_page.Choice(folders=[tmp_path], features=[]))
    assert asked == [["ce", "ce", "mma", "mma"]]


def test_ratios_of_estimators_are_in_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"norm": "l2", "beside": "exact", "estimator": "fmn", "kind": "attack", "points": 7, "answered": 0.9}
    frame = pd.DataFrame([{**line, "suite_fingerprint": "f", "median": 1.1, "low": 1.0, "high": 1.4}])
    monkeypatch.setattr(module, "tightness", lambda networks: frame)
    monkeypatch.setattr(module, "margins", lambda networks, information: frame[:0])
    (near,) = module.predictions([])["f"].near
    assert (near.norm, near.estimator, near.points, near.answered) == ("L2", "fmn", 7, 0.9)
    assert (near.low, near.median, near.high) == (1.0, 1.1, 1.4)
