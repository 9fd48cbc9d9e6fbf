"""Where rows stand, on records whose arrays are made by hand."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import EPSILON, a_failure, a_record
from scipy.special import stdtrit

from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.reader import Reading, read_folders, read_records
from marginbench.benchmarks.records.record import SuiteFacts, write_record
from marginbench.benchmarks.records.scores import SCORES, pseudo_values, scores
from marginbench.benchmarks.statistics.paired import holm
from marginbench.benchmarks.statistics.pairwise import pairwise
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.across import across
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.compare import compare_rows
from marginbench.benchmarks.tables.frame import leaderboard
from marginbench.benchmarks.tables.own_networks import rows_once
from marginbench.benchmarks.tables.pairs import suite_runs
from marginbench.benchmarks.tables.render import render
from marginbench.benchmarks.tables.standing import standings
from marginbench.methods.errors import ParameterError

POINTS = 200
SUITE = "f" * 64
ROBUST, CERTIFIED, UPPER = "robust_accuracy_l2", "certified_accuracy_l2", "margin_upper_l2"


def margins(row: int, seed: int, shift: float, tight: float) -> dict[str, np.ndarray]:
    """Per-point arrays: points of a difficulty of their own, noise of the row and seed; certified is a share of it."""
    hard = np.random.default_rng(0).gamma(4, 0.1, POINTS)
    upper = hard + shift + 0.02 * np.random.default_rng([1, row, seed]).normal(size=POINTS)
    right = upper > 0.1
    upper = np.where(right, upper, 0.0)
    label = np.arange(POINTS) % 10
    lower = tight * upper
    return {
        "index": np.arange(POINTS),
        "label": label,
        "prediction": np.where(right, label, (label + 1) % 10),
        "output_margin": upper,
        "upper_l2": upper,
        "lower_l2": lower,
        "upper_linf": upper / 5,
        "lower_linf": lower / 5,
        "lower_l2_crown": lower,
        "lower_linf_crown": lower / 5,
    }


def write(folder: Path, method: str, row: int, shift: float = 0.0, tight: float = 0.5, **changes: Any) -> None:
    """The runs of a row: as many as `seeds`, whose arrays `change` may alter."""
    seeds, change = changes.pop("seeds", 3), changes.pop("change", lambda arrays: arrays)
    for seed in range(seeds):
        arrays = change(margins(row, seed, shift, tight))
        metrics = {**summarise(arrays, EPSILON), "validation_accuracy": 0.9 + 0.01 * ((row + seed) % 3)}
        write_record(folder / "runs", a_record(method, seed, metrics=metrics, **changes), arrays)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rows that are equal, and two that are better, of which one is certified."""
    write(tmp_path, "ce", 0)
    write(tmp_path, "twin", 1)
    write(tmp_path, "good", 2, 0.3)
    write(tmp_path, "sure", 3, 0.3, 0.98)
    return tmp_path


def test_rows_that_are_equal_share_letters_group_and_ranks(folder: Path) -> None:
    found = standings(read_folders([folder]), [ROBUST])
    of = {row: found[SUITE, row][ROBUST] for row in ("ce", "twin", "good", "sure")}
    assert [of[row].letters for row in of] == ["b", "b", "a", "a"]
    assert [of[row].group for row in of] == [2, 2, 1, 1]
    assert [(of[row].best_rank, of[row].worst_rank) for row in of] == [(3, 4), (3, 4), (1, 2), (1, 2)]
    assert of["twin"].p > 0.05 and of["good"].p < 0.001 and math.isnan(of["ce"].p) and math.isnan(of["ce"].difference)


def test_the_numbers_are_those_of_the_arrays(folder: Path) -> None:
    of = standings(read_folders([folder]), [ROBUST])[SUITE, "good"][ROBUST]
    seeds = [np.mean(margins(2, seed, 0.3, 0.5)["upper_l2"] > 0.5) for seed in range(3)]
    base = [np.mean(margins(0, seed, 0.0, 0.5)["upper_l2"] > 0.5) for seed in range(3)]
    assert of.mean == pytest.approx(np.mean(seeds)) and of.n == 3
    assert of.difference == pytest.approx(np.mean(seeds) - np.mean(base))
    assert of.difference_low < of.difference < of.difference_high and of.low < of.mean < of.high


@pytest.mark.parametrize("seeds", [3, 4])
def test_points_are_means_over_all_seeds(tmp_path: Path, seeds: int) -> None:
    write(tmp_path, "ce", 0, seeds=seeds)
    (suite,) = suite_runs(read_folders([tmp_path])).values()
    upper = np.array([margins(0, seed, 0.0, 0.5)["upper_l2"] for seed in range(seeds)])
    for name, values in ((UPPER, upper), (ROBUST, upper > 0.5)):
        np.testing.assert_allclose(suite.points["ce"][name], values.mean(0), rtol=1e-12)


def test_small_is_good_where_the_column_says_so(tmp_path: Path) -> None:
    for place, method in enumerate(("ce", "slow", "slower")):
        for seed in range(3):
            cost = {"seconds": 2.0 * 4**place + 0.01 * seed}
            write_record(tmp_path / "runs", a_record(method, seed, cost=cost), {})
    found = standings(read_folders([tmp_path]), ["cost"])
    assert [found[SUITE, row]["cost"].group for row in ("ce", "slow", "slower")] == [1, 2, 3]
    assert found[SUITE, "slow"]["cost"].best_rank == 2 and found[SUITE, "slow"]["cost"].difference > 0
    assert [found[SUITE, row]["cost"].ranks for row in ("ce", "slow", "slower")] == ["1", "2", "3"]


def shares(values: np.ndarray) -> np.ndarray:
    """[R] what the luck of the seeds goes with: p (1 - p) of the rows' shares [R, seeds], by Agresti and Coull."""
    p = (values.mean(1) * POINTS + 2) / (POINTS + 4)
    return np.asarray(p * (1 - p))


@pytest.mark.parametrize("column", [ROBUST, CERTIFIED, "unknown_l2", UPPER, "margin_lower_l2", "output_margin"])
def test_differences_are_those_of_seeds_and_points(folder: Path, column: str) -> None:
    """Of arrays made by hand: which points each column takes, and what the luck of its seeds goes with."""
    kinds = (("ce", 0.0, 0.5), ("twin", 0.0, 0.5), ("good", 0.3, 0.5), ("sure", 0.3, 0.98))

    def point_by_point(row: int, seed: int, shift: float, tight: float) -> np.ndarray:
        own = margins(row, seed, shift, tight)
        of = {
            ROBUST: own["upper_l2"] > 0.5,
            CERTIFIED: own["lower_l2"] >= 0.5,
            "unknown_l2": (own["upper_l2"] > 0.5) & (own["lower_l2"] < 0.5),
            UPPER: own["upper_l2"],
            "margin_lower_l2": own["lower_l2"],
            "output_margin": own["upper_l2"],
        }
        return of[column].astype(float)

    values = np.array(
        [[point_by_point(row, seed, *of) for seed in range(3)] for row, (_, *of) in enumerate(kinds)]
    )  # [R, seeds, N]
    seeds = values.mean(2)
    size = seeds.mean(1) ** 2 if column in (UPPER, "margin_lower_l2", "output_margin") else shares(seeds)
    wanted = pairwise(seeds, values.mean(1), size)
    found = standings(read_folders([folder]), [column])
    for row, (name, *_) in enumerate(kinds[1:], 1):
        of = found[SUITE, name][column]
        assert of.difference == pytest.approx(wanted.difference[row, 0])
        assert of.difference_high - of.difference == pytest.approx(wanted.half[row, 0], rel=1e-6)


def test_of_rows_that_share_networks_the_one_with_most_counts() -> None:
    assert rows_once([["a"], ["b", "a", "c"], ["d"], ["c", "e"]]) == [False, True, True, False]
    assert rows_once([["a", "b"], ["b", "a"]]) == [True, False], "of as many, the first"


def test_an_interval_of_a_gap_may_lie_below_zero(tmp_path: Path) -> None:
    gaps = (-0.01, -0.03, -0.02)
    for seed, gap in enumerate(gaps):
        metrics = {"points": 360.0, "clean_accuracy": 0.9, "generalisation_gap": gap}
        write_record(tmp_path / "runs", a_record("ce", seed, metrics=metrics), {})
    of = standings(read_folders([tmp_path]), ["generalisation_gap"])[SUITE, "ce"]["generalisation_gap"]
    half = float(stdtrit(2, 0.975)) * 0.01 / math.sqrt(3)
    assert (of.low, of.high) == pytest.approx((-0.02 - half, -0.02 + half))


def test_below_three_seeds_nothing_is_compared(tmp_path: Path) -> None:
    write(tmp_path, "ce", 0)
    write(tmp_path, "twin", 1)
    write(tmp_path, "few", 2, 0.3, seeds=2)
    found = standings(read_folders([tmp_path]), [ROBUST, "validation_accuracy"])
    for of in found[SUITE, "few"].values():
        assert of.n == 2 and math.isfinite(of.mean) and math.isfinite(of.difference)
        assert all(map(math.isnan, (of.low, of.high, of.difference_low, of.p)))
        assert of.letters == "" and of.group is of.best_rank is of.worst_rank is None
    assert found[SUITE, "ce"][ROBUST].worst_rank == 3, "few may be better"


def test_rows_without_their_arrays_are_not_compared_point_by_point(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = read_folders([folder])
    lost = next(path for path, record in reading.records.items() if record.method == "good")
    lost.with_suffix(".npz").unlink()
    with caplog.at_level(logging.WARNING):
        found = standings(reading, [ROBUST, "validation_accuracy"])
    assert "row good is not compared" in caplog.text and lost.stem in caplog.text
    assert found[SUITE, "good"][ROBUST].group is None and math.isfinite(found[SUITE, "good"][ROBUST].low)
    assert found[SUITE, "good"]["validation_accuracy"].group is not None, "which is known without arrays"
    assert found[SUITE, "sure"][ROBUST].ranks == "1–2", "good may be better"
    bare = Reading({path: replace(record, arrays_sha256=None) for path, record in reading.records.items()}, {})
    assert {of[ROBUST].group for of in standings(bare, [ROBUST]).values()} == {None}


def test_other_test_points_are_not_compared(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder, "zzz", 9, 0.3, change=lambda arrays: arrays | {"index": arrays["index"] + 1})
    with caplog.at_level(logging.WARNING):
        found = standings(read_folders([folder]), [ROBUST])
    assert [row for (_, row), of in found.items() if of[ROBUST].group is None] == ["zzz"], "most rows have the others"
    assert "row zzz is not compared" in caplog.text and "measured on other test points" in caplog.text


def test_a_margin_that_no_attack_ends_has_no_rank(folder: Path) -> None:
    def unmoved(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return arrays | {"upper_l2": np.where(np.arange(POINTS) == 3, np.inf, arrays["upper_l2"])}

    write(folder, "masked", 9, change=unmoved)
    found = standings(read_folders([folder]), [UPPER, ROBUST])
    of = found[SUITE, "masked"]
    assert of[UPPER].mean == math.inf and of[UPPER].group is None and math.isnan(of[UPPER].difference)
    assert of[ROBUST].group is not None and found[SUITE, "sure"][UPPER].ranks == "1–3", "masked may be better"


def test_a_row_that_lost_a_seed_may_still_be_the_best(folder: Path) -> None:
    """A row of which nothing was measured has no place."""
    write(folder, "best", 9, 0.9, seeds=2)
    write_record(folder / "runs", a_failure("best", 2), {})
    write_record(folder / "runs", a_record("nothing", metrics={"points": 200.0}), {})
    reading = read_folders([folder])
    found = standings(reading, [ROBUST])
    wanted = {"good": "1–3", "sure": "1–3", "ce": "3–5", "twin": "3–5", "best": "", "nothing": ""}
    assert {row: of[ROBUST].ranks for (_, row), of in found.items()} == wanted
    text = render(list(reading.records.values()), "md", Choice(by=ROBUST), found)
    assert "of the place among all rows; 1 row cannot be compared and may be better or worse." in text


def test_suites_and_versions_do_not_mix(folder: Path) -> None:
    wanted = standings(read_folders([folder]))
    write(folder, "twin", 7, 0.9, identity={"revision": 0})
    other = "e" * 64
    write(folder, "good", 8, 0.9, identity={"suite": other})
    found = standings(read_folders([folder]))
    assert repr({key: of for key, of in found.items() if key[0] == SUITE}) == repr(wanted)
    assert (other, "good") in found and found[other, "good"][ROBUST].best_rank == 1
    assert math.isnan(found[other, "good"][ROBUST].difference), "no ce in that suite"


def test_an_unknown_column_is_refused_with_a_suggestion(folder: Path) -> None:
    with pytest.raises(ParameterError, match="names='robust_accuracy': no such column"):
        standings(read_folders([folder]), ["robust_accuracy"])


def test_validation_accuracies_are_shares_of_validation_images(tmp_path: Path) -> None:
    suite = {"name": "toy", "title": "toy", "data": {"validation": 50}, "evaluation": {"epsilon": EPSILON}}
    for seed in range(3):
        metrics = {"points": 360.0, "clean_accuracy": 1.0, "validation_accuracy": 1.0}
        write_record(tmp_path / "runs", a_record("ce", seed, metrics=metrics, suite=SuiteFacts.of(suite)), {})
    of = standings(read_folders([tmp_path]), ["clean_accuracy", "validation_accuracy"])[SUITE, "ce"]
    assert of["clean_accuracy"].low == pytest.approx(0.025 ** (1 / 360))
    assert of["validation_accuracy"].low == pytest.approx(0.025 ** (1 / 50))


def test_surely_better_is_certified_against_attacked(folder: Path) -> None:
    found = standings(read_folders([folder]), list(columns.SURELY_BETTER))
    counts = {row: found[SUITE, row]["surely_better_l2"].mean for row in ("ce", "twin", "good", "sure")}
    assert counts == {"ce": 0, "twin": 0, "good": 0, "sure": 2}, "good may be as robust as sure, or as ce"
    frame = leaderboard(folder, "surely_better_l2")
    assert frame["method"][0] == "sure" and list(frame["surely_better_l2"]) == [2, 0, 0, 0]


@pytest.mark.parametrize("shift", [0.10, 0.13])
def test_surely_better_is_one_sided_after_holms_correction(tmp_path: Path, shift: float) -> None:
    """Counted by hand from p of each certified accuracy beside each robust one."""
    kinds = [(0.0, 0.5), *((shift + 0.015 * k, 0.98) for k in range(6))]
    names = ["ce", *(f"sure{k}" for k in range(6))]
    for row, (name, (more, tight)) in enumerate(zip(names, kinds, strict=True)):
        write(tmp_path, name, row, more, tight)
    upper = np.array([[margins(row, seed, *of)["upper_l2"] for seed in range(3)] for row, of in enumerate(kinds)])
    lower = np.array([[margins(row, seed, *of)["lower_l2"] for seed in range(3)] for row, of in enumerate(kinds)])
    values = np.concatenate([lower >= 0.5, upper > 0.5]).astype(float)  # [2 R, seeds, N]
    rows, seeds = len(names), values.mean(2)
    pairs = pairwise(seeds, values.mean(1), shares(seeds))
    ordered = [(a, b) for a in range(rows) for b in range(rows) if a != b]
    above = np.array([pairs.difference[a, rows + b] > 0 for a, b in ordered])
    p = np.array([pairs.p[a, rows + b] for a, b in ordered])

    def counts(of_each: Any) -> list[int]:
        return [
            sum(value < 0.05 for value, (a, _) in zip(of_each, ordered, strict=True) if a == row) for row in range(rows)
        ]

    one_sided, two_sided = np.where(above, p / 2, 1 - p / 2), np.where(above, p, 1.0)
    wanted = counts(holm(one_sided.tolist()))
    assert wanted != counts(one_sided) and wanted != counts(holm(two_sided.tolist())), "the test needs such rows"
    found = standings(read_folders([tmp_path]), ["surely_better_l2"])
    assert [found[SUITE, name]["surely_better_l2"].mean for name in names] == wanted


def test_surely_better_says_nothing_of_few_seeds(tmp_path: Path) -> None:
    write(tmp_path, "ce", 0)
    write(tmp_path, "sure", 1, 0.3, 0.98, seeds=2)
    found = standings(read_folders([tmp_path]), ["surely_better_l2"])
    assert (
        math.isnan(found[SUITE, "sure"]["surely_better_l2"].mean) and found[SUITE, "ce"]["surely_better_l2"].mean == 0
    )


def test_unknown_is_robust_and_not_certified(folder: Path) -> None:
    frame = leaderboard(folder).set_index("method")
    assert frame["unknown_l2"].tolist() == pytest.approx((frame[ROBUST] - frame[CERTIFIED]).tolist())
    arrays = [margins(3, seed, 0.3, 0.98) for seed in range(3)]
    wanted = np.mean([(each["lower_l2"] < 0.5) & (each["upper_l2"] > 0.5) for each in arrays])
    assert frame.loc["sure", "unknown_l2"] == pytest.approx(wanted)
    assert frame.loc["sure", "unknown_l2_group"] == 1, "where least is unknown"


def test_frames_hold_the_standing_of_every_column(folder: Path) -> None:
    found = standings(read_folders([folder]))
    frame = leaderboard(folder, UPPER).set_index("method")
    for row in ("ce", "good"):
        for name in (ROBUST, UPPER, "clean_accuracy", "validation_accuracy", "unknown_linf"):
            for end in columns.STANDING:
                of = getattr(found[SUITE, row][name], end)
                shown = frame.loc[row, f"{name}_{end}"]
                assert shown == of or (pd.isna(shown) and pd.isna(of))
    assert list(frame.index) == ["good", "sure", "ce", "twin"], "by group, then by name"


def test_ranks_across_suites(folder: Path) -> None:
    other = "e" * 64
    for row, (method, shift) in enumerate({"ce": 0.0, "good": 0.2, "alone": 0.1}.items()):
        write(folder, method, row, shift, identity={"suite": other})
    found = across(read_records([folder]), ROBUST)
    assert found is not None and found.rows == ["good", "ce"] and found.left_out == ["alone", "sure", "twin"]
    assert found.average_ranks == {"good": 1.0, "ce": 2.0} and found.cliques == [["good", "ce"]]
    assert "all pairs of 2 rows need 6 suites" in found.ranking.power
    assert across(read_records([folder]), ROBUST, [other]) is None
    with pytest.raises(ParameterError, match="no such column"):
        across(read_records([folder]), "robust")


def test_fronts_are_marked_among_the_rows_that_count(tmp_path: Path) -> None:
    rows = {"ce": (1.0, 0.5), "dear": (8.0, 0.9), "bad": (9.0, 0.8), "cheap": (0.5, 0.2)}
    for method, (seconds, clean) in rows.items():
        cost = {"seconds": seconds, "steps": 10, "forward": 2 * seconds, "backward": seconds}
        write_record(tmp_path / "runs", a_record(method, clean=clean, cost=cost), {})
    write_record(tmp_path / "runs", a_record("ce", clean=0.99, cost={"seconds": 0.1}, identity={"revision": 0}), {})
    frame = leaderboard(tmp_path).set_index("method")
    both = f"clean_accuracy {ROBUST}"
    assert frame.loc[["dear", "bad", "cheap"], "pareto_cost"].tolist() == [both, "", both]
    assert sorted(frame.loc["ce", "pareto_passes"]) == ["", both], "the older version is on no front"
    assert frame.loc["dear", "passes"] == 8 and frame.loc["dear", "pareto_clean_accuracy"] == ROBUST


def test_scores_of_sentences_are_compared_over_points_too(tmp_path: Path) -> None:
    """Seeds agree to the bit, so that over seeds alone a difference of two points of 100 would be certain."""
    label = np.arange(100) % 2
    wrong = {"ce": 12, "good": 10, "best": 0}
    arrays = {
        row: {
            "index": np.arange(100),
            "label": label,
            "prediction": np.where(np.arange(100) < n, 1 - label, label),
            "output_margin": np.ones(100),
        }
        for row, n in wrong.items()
    }
    for row, own in arrays.items():
        for seed in range(3):
            metrics = {**summarise(own, {}), **scores(SCORES, own)}
            record = a_record(row, seed, metrics=metrics, columns=list(SCORES.values()))
            write_record(tmp_path / "runs", record, own)
    found = standings(read_folders([tmp_path]), list(SCORES))
    for name in SCORES:
        good, best = found[SUITE, "good"][name], found[SUITE, "best"][name]
        parts = [pseudo_values(name, arrays[row]) for row in ("good", "ce")]
        error = np.std(parts[0] - parts[1], ddof=1) / 10
        of_good, of_ce = (scores([name], arrays[row])[name] for row in ("good", "ce"))
        assert good.difference == pytest.approx(of_good - of_ce)
        assert good.difference_high - good.difference == pytest.approx(stdtrit(99, 0.975) * error, rel=1e-3)
        assert good.p > 0.05 and best.p < 0.01
    table = compare_rows("best", "ce", tmp_path).set_index("column")
    corrected = [found[SUITE, "best"][name].p for name in SCORES]  # over two rows, of which this is the surer one
    assert (2 * table.loc[list(SCORES), "p"]).tolist() == pytest.approx(corrected)
    assert set(table.loc[list(SCORES), "verdict"]) == {"differs"} and set(table.loc[list(SCORES), "above"]) == {""}
