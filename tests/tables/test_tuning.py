"""Defaults and tuned rows beside each other: the gains, their tests, and what they cost."""

import csv
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from figure_support import write_row
from made import a_tuning, claiming

from marginbench.benchmarks.records.reader import Reading, read_folders
from marginbench.benchmarks.records.tuning import Tuning, in_a_sentence
from marginbench.benchmarks.statistics.paired import holm
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.claims import OF_TUNED, findings, render_claims
from marginbench.benchmarks.tables.files import contents
from marginbench.benchmarks.tables.pairs import column_pairs, suite_runs
from marginbench.benchmarks.tables.standing import standings
from marginbench.benchmarks.tables.tuning import Gains, _beat, gains, tuning_files

ROBUST = "robust_accuracy_l2"


def write(folder: Path, row: str, strength: float, tuned: float, seeds: int = 3, **changes: Any) -> Tuning:
    tuning = a_tuning(row, **changes)
    write_row(folder, row, strength, seeds)
    write_row(folder, tuning.name, tuned, seeds, tuning=tuning)
    return tuning


def found(folder: Path) -> Gains:
    (made,) = gains(read_folders([folder]))
    return made


def test_a_gain_is_that_of_the_means_with_an_interval_and_a_test(tmp_path: Path) -> None:
    write(tmp_path, "ce", 0.5, 0.5, chosen=0)
    write(tmp_path, "mma", 0.5, 5.0)
    made = found(tmp_path)
    records = read_folders([tmp_path]).records.values()
    values = {row: [r.metrics[ROBUST] for r in records if r.method == row] for row in ("mma", "mma+tuned")}
    means = {row: sum(own) / 3 for row, own in values.items()}
    gain = made.gains[ROBUST]["mma"]
    assert (gain.default, gain.tuned) == pytest.approx((means["mma"], means["mma+tuned"]))
    assert gain.difference == pytest.approx(gain.tuned - gain.default) and gain.difference > 0.2
    assert 0 < gain.low < gain.difference < gain.high and gain.p < 0.05
    kept = made.gains[ROBUST]["ce"]
    assert (kept.difference, kept.low, kept.high, kept.p) == (0, 0, 0, 1)  # the same networks
    assert made.ahead[ROBUST] == [0, 1]


def test_rows_ahead_are_told_by_the_tests_of_the_other_rows_alone() -> None:
    """p 0.02 times two rows is below 0.05; the baseline beside itself is no test."""
    p = {"ce": 1.0, "mma": 0.02, "svm": 0.9}
    between = SimpleNamespace(difference=lambda row, other: SimpleNamespace(value=float(row != other), p=p[row]))
    assert _beat(between, p, "") == 1  # type: ignore[arg-type]


def test_the_page_says_what_was_gained_and_what_it_cost(tmp_path: Path) -> None:
    write(tmp_path, "ce", 0.5, 0.5, chosen=0)
    write(tmp_path, "mma", 0.5, 5.0)
    files = contents(read_folders([tmp_path]))
    page = files["tuning.md"]
    ce, mma = (next(line for line in page.splitlines() if line.startswith(f"| {row} ")) for row in ("ce", "mma"))
    assert "| the default " in ce and "→" not in ce
    assert " → " in mma and "]*" in mma and "mma(x=2)" in mma and "4 (4)" in mma and "4000" in mma and "2.0 min" in mma
    assert "tuning made 1 of 2 rows better and 0 worse; ahead of ce: 0 rows by default, 1 with ce tuned alike" in page
    assert "; every row with 4 trials by validation accuracy (the default, 3 drawn at random; seed 0), of which" in page
    lines = list(csv.DictReader(io.StringIO(files["tuning.csv"])))
    line = next(line for line in lines if (line["row"], line["column"]) == ("mma", ROBUST))
    assert float(line["gain"]) == pytest.approx(float(line["tuned"]) - float(line["default"]), abs=1e-5)
    assert (line["trials"], line["failed"], line["setting"], line["tuned_rank"]) == ("4", "1", "mma(x=2)", "1")
    assert "| mma+tuned" in files["leaderboard.md"]


def test_ranks_are_those_of_their_side_and_the_two_rankings_are_compared(tmp_path: Path) -> None:
    """Tuning turns the order of three rows round, but for one pair: tau is (1 - 2) / 3."""
    for row, strengths in {"ce": (0.5, 0.9), "mma": (0.7, 0.5), "svm": (0.9, 0.7)}.items():
        write(tmp_path, row, *strengths)
    files = tuning_files(read_folders([tmp_path]))
    lines = [line for line in csv.DictReader(io.StringIO(files["tuning.csv"])) if line["column"] == ROBUST]
    ranks = {line["row"]: (line["default_rank"], line["tuned_rank"]) for line in lines}
    assert ranks == {"ce": ("3", "1"), "mma": ("2", "3"), "svm": ("1", "2")}
    (note,) = [one for one in files["tuning.md"].splitlines() if one.startswith("- robust % L2")]
    assert note.endswith("Kendall tau of the two rankings -0.33.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": "another"}, "of which another"),
        ({"seed": 1}, "seed 1"),
        ({"trials": 3}, "3 trials by"),
        ({"floor": 0.7}, "floor: 70 % clean"),
        ({"norm": "l2"}, "by pareto l2"),
        ({"objective": "robust_accuracy"}, "by robust accuracy linf"),
        ({"sampler": "TPE from trial 2 on"}, "2 by TPE"),
        ({"space": {"training.learning_rate": "0.1 to 1"}}, "recipe included"),
    ],
)
def test_rows_that_were_not_tuned_alike_are_told_apart(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    rule = {"rule": "the one that reaches the floor"}
    for row in ("ce", "mma"):
        write(tmp_path, row, 0.5, 5.0, seeds=1, robust=True, **rule)
    page = tuning_files(read_folders([tmp_path]))["tuning.md"]
    assert "; every row with 4 trials" in page and words not in page
    write(tmp_path, "svm", 0.5, 5.0, seeds=1, robust=True, **rule | changes)
    page = tuning_files(read_folders([tmp_path]))["tuning.md"]
    (note,) = [line for line in page.splitlines() if "**not alike**" in line]
    assert "compared: ce, mma with 4 trials by pareto linf" in note and words in note.partition("; svm with ")[2]


@pytest.mark.parametrize(
    ("sampler", "trials", "drawn"),
    [
        ("TPE from trial 8 on", 20, "the default, 7 drawn at random, 12 by TPE"),
        ("TPE, after 8 random trials", 20, "the default, 7 drawn at random, 12 by TPE"),  # as it once was written
        ("TPE from trial 8 on", 8, "the default, 7 drawn at random"),
        ("TPE from trial 8 on", 6, "the default, 5 drawn at random"),
        ("TPE from trial 8 on", 1, "the default"),
        ("random", 20, "the default, 19 drawn at random"),
    ],
)
def test_the_trials_are_counted_by_what_drew_them(sampler: str, trials: int, drawn: str) -> None:
    tuning = a_tuning("mma", sampler=sampler, trials=trials)
    assert tuning.drawn == drawn and f"({drawn}; seed 0, 2026-01-01)" in in_a_sentence(tuning)


def test_below_three_seeds_there_are_means_alone(tmp_path: Path) -> None:
    write(tmp_path, "mma", 0.5, 5.0, seeds=1)
    gain = found(tmp_path).gains[ROBUST]["mma"]
    assert gain.difference == pytest.approx(gain.tuned - gain.default) and math.isnan(gain.p)
    mma = next(line for line in tuning_files(read_folders([tmp_path]))["tuning.md"].splitlines() if "| mma " in line)
    assert " → " in mma and "[" not in mma


def test_gains_and_rows_ahead_are_corrected_over_the_rows(tmp_path: Path) -> None:
    """By their p as pairs: one row of two with p < 5 % is ahead after the correction."""
    rows = {"ce": (0.5, 0.5), "mma": (0.7, 0.7), "pmm": (0.55, 0.55), "svm": (0.54, 0.54), "lmt": (0.48, 0.7)}
    for row, strengths in rows.items():
        write(tmp_path, row, *strengths)
    (suite,) = suite_runs(read_folders([tmp_path])).values()
    between = column_pairs(suite, next(column for column in columns.ACCURACIES if column.name == ROBUST))
    made = found(tmp_path)
    raw = [between.difference(f"{row}+tuned", row).p for row in rows]
    assert [made.gains[ROBUST][row].p for row in rows] == holm(raw) != raw
    ahead = [between.difference(row, "ce") for row in rows if row != "ce"]
    assert sum(of.p < 0.05 and of.value > 0 for of in ahead) == 2, "the test needs such rows"
    assert made.ahead[ROBUST][0] == 1


def test_tuned_rows_are_ahead_of_cross_entropy_that_was_tuned_too(tmp_path: Path) -> None:
    """Of cross-entropy by default mma would be ahead on both sides, tuned or not."""
    write(tmp_path, "ce", 0.5, 5.0)
    write(tmp_path, "mma", 1.5, 1.5)
    assert found(tmp_path).ahead[ROBUST] == [1, 0]


def test_rows_of_an_earlier_tuning_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "mma", 0.5, 5.0)
    newer = a_tuning("mma", chosen=1)
    write_row(tmp_path, newer.name, 0.6, tuning=newer, identity={"fields": {"x": 1}})
    made = found(tmp_path)
    assert len(made.tunings) == 1 and made.gains[ROBUST]["mma"].difference == pytest.approx(
        gain_of(tmp_path, made.tunings["mma"])
    )


def gain_of(folder: Path, tuning: Tuning) -> float:
    records = read_folders([folder]).records.values()

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    of_tuned = [record.metrics[ROBUST] for record in records if record.tuning == tuning]
    return mean(of_tuned) - mean([record.metrics[ROBUST] for record in records if record.method == "mma"])


def test_where_nothing_is_tuned_there_is_no_page(tmp_path: Path) -> None:
    write_row(tmp_path, "ce", 0.5)
    assert tuning_files(read_folders([tmp_path])) == {} and gains(read_folders([tmp_path])) == []
    write_row(tmp_path, "mma+tuned", 0.5, tuning=a_tuning("mma"))  # without its default
    assert tuning_files(read_folders([tmp_path])) == {}


def test_claims_of_tuned_rows_are_measured_against_tuned_cross_entropy(tmp_path: Path) -> None:
    for row, strength in (("ce", 0.5), ("ce+tuned", 5.0), ("mma", 1.0), ("mma+tuned", 1.0)):
        tuning = a_tuning(row.removesuffix("+tuned")) if row.endswith("+tuned") else None
        write_row(tmp_path, row, strength, tuning=tuning)
    found = read_folders([tmp_path])
    paths = {path: claiming(record, "f", "p", "input_margin") for path, record in found.records.items()}
    reading = Reading(paths, {})
    seen = {one.method: one.difference for one in findings(reading) if one.column == "margin_upper_l2"}
    assert seen["mma"] > 0 > seen["mma+tuned"]
    of = standings(reading, ["margin_upper_l2"])
    (suite,) = {suite for suite, _ in of}
    to_baseline = {row: of[suite, row]["margin_upper_l2"].difference for row in ("mma", "mma+tuned", "ce+tuned")}
    assert to_baseline["mma"] == seen["mma"] and to_baseline["mma+tuned"] == seen["mma+tuned"]
    assert to_baseline["ce+tuned"] > 0  # to that with the paper's defaults
    assert OF_TUNED in contents(reading)["leaderboard.md"]
    assert OF_TUNED in render_claims(reading)
    assert OF_TUNED not in render_claims(reading.where(lambda record: record.tuning is None))
