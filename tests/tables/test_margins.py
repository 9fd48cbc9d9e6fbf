"""Which margin predicts what, on records made by hand, of which the answer is known; and what words make of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import EPSILON, a_failure, a_record, a_tuning, claiming
from support import Run

from marginbench.benchmarks.records.reader import Reading, read_folders
from marginbench.benchmarks.records.record import SuiteFacts, write_record
from marginbench.benchmarks.tables.margins import SCORES, margins, networks_of, of_suites
from marginbench.benchmarks.tables.render_margins import page, render_margins
from marginbench.benchmarks.tables.tightness import tightness
from marginbench.methods import MarginbenchError

METHODS, SEEDS, POINTS = 14, 3, 40
Arrays = dict[str, np.ndarray]


def arrays(attacked: float, output: float, wrong: int, **more: np.ndarray) -> Arrays:
    """Points at which every margin is the given one, of which the first `wrong` are misclassified."""
    right = np.arange(POINTS) >= wrong
    upper = np.where(right, attacked, 0.0).astype(np.float32)
    values: Arrays = {
        "label": np.zeros(POINTS, dtype=np.int64),
        "prediction": (~right).astype(np.int64),
        "output_margin": np.where(right, output, -1.0).astype(np.float32),
    }
    for norm in ("l2", "linf"):
        values |= {f"upper_{norm}": upper, f"upper_{norm}_fmn": upper, f"lower_{norm}": 0 * upper}
    return values | more


def write(folder: Path, method: str, seed: int, found: Arrays, metrics: dict[str, float], **changes: Any) -> None:
    record = claiming(a_record(method, seed, metrics=metrics, **changes), f"family {int(method[1:]) % 3}", "p")
    write_record(folder / "runs", record, found)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """Robust accuracy follows the attacked margin everywhere; test accuracy the constrained one across methods, and
    against it within; the output margin is chance."""
    folder, stream = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for method in range(METHODS):
        for seed in range(SEEDS):
            attacked = 1.0 + method + 0.1 * seed
            wrong = method - seed + 2
            metrics = {
                "clean_accuracy": 1 - wrong / POINTS,
                "robust_accuracy_linf": attacked / 20,
                "generalisation_gap": float(stream.normal()),
                "constrained_margin": 20.0 - method - 0.1 * seed,
                "certified_accuracy_l2": 0.0,
                **{f"linearised_{layer}_{number}": math.nan for layer in ("hidden_1",) for number in ("q1", "median")},
            }
            write(folder, f"m{method}", seed, arrays(attacked, float(stream.normal()), wrong), metrics)
    write_record(folder / "runs", a_failure("m99"), {})
    return read_folders([folder])


def line(reading: Reading, target: str, measure: str, over: str = "correct") -> Any:
    table = margins(reading, [target], over_all=True)
    (found,) = table[(table["measure"] == measure) & (table["over"] == over)].to_dict("records")
    return found


def test_a_measure_that_is_the_target_orders_it_and_shares_its_bounds(reading: Reading) -> None:
    found = line(reading, "robust_accuracy_linf", "attacked_linf")
    assert found["networks"] == METHODS * SEEDS and found["methods"] == METHODS
    assert [round(found[name], 9) for name in SCORES] == [1] * len(SCORES)
    assert found["across_low"] == found["across_high"] == pytest.approx(1)
    assert found["shares"] == "bounds" and not found["across_shown"] and not found["across_best"]
    other = line(reading, "robust_accuracy_linf", "attacked_l2")
    assert other["shares"] == "images" and other["across_shown"] and other["within_best"]


def test_within_and_across_methods_may_disagree(reading: Reading) -> None:
    found = line(reading, "clean_accuracy", "constrained_margin", "train")
    assert found["across"] == pytest.approx(1) and found["within"] == pytest.approx(-1)
    assert found["granulated"] == pytest.approx(0) and found["shares"] == ""


def test_a_mean_over_all_images_contains_the_accuracy(reading: Reading, tmp_path: Path) -> None:
    """The same margin at every correct point of every network: over all points it is the accuracy."""
    for method in range(6):
        write(tmp_path, f"m{method}", 0, arrays(1.0, 1.0, method + 1), {"clean_accuracy": 1 - (method + 1) / POINTS})
    same = read_folders([tmp_path])
    every = line(same, "clean_accuracy", "attacked_l2", "all")
    assert (
        every["tau"] == 1 and every["shares"] == "accuracy" and not every["across_shown"] and not every["across_best"]
    )
    assert math.isnan(line(same, "clean_accuracy", "attacked_l2")["tau"])
    assert set(margins(reading, ["clean_accuracy"])["over"]) == {"correct", "train"}


def test_few_methods_that_agree_are_no_proof(tmp_path: Path) -> None:
    """Of six methods with two seeds each, all six agree: one chance in 32, and a bootstrap of no width."""
    for method in range(6):
        for seed in range(2):
            metrics = {"clean_accuracy": 0.5 + 0.01 * seed + 0.03 * ((7 * method) % 5)}
            write(tmp_path, f"m{method}", seed, arrays(1.0 + seed + (3 * method) % 7, 1.0, 2), metrics)
    found = line(read_folders([tmp_path]), "clean_accuracy", "attacked_l2")
    assert found["within"] == found["within_low"] == 1 and not found["within_shown"]


def test_chance_is_not_shown(reading: Reading) -> None:
    found = line(reading, "generalisation_gap", "output_margin")
    assert abs(found["across"]) < 0.4 and not found["across_shown"] and not found["r2_shown"]


def test_what_was_not_measured_or_does_not_vary_is_left_out(reading: Reading) -> None:
    table = margins(reading)
    assert not table["measure"].str.startswith(("clever", "exact", "certified", "linearised")).any()
    constant = table[table["target"] == "certified_accuracy_l2"]
    assert constant["tau"].isna().all() and not constant["across_shown"].any()
    with pytest.raises(MarginbenchError, match="robust_accuracy_linf"):
        margins(reading, ["robust_acuracy_linf"])


def test_the_conditional_information_may_be_left_out(reading: Reading) -> None:
    whole, short = margins(reading), margins(reading, information=False)
    own = [name for name in whole if name.startswith("information")]
    assert len(own) == 3 and whole["information"].notna().any() and short[own].isna().all(axis=None)
    assert short.drop(columns=own).equals(whole.drop(columns=own)) and [*short] == [*whole]


def test_words_say_what_is_shown_and_no_more(reading: Reading) -> None:
    text = render_margins(reading)
    start = text.index("42 networks of 14 methods.")
    paragraph = text[start : text.index("\n###", start)]
    sentences = {part.split("**")[1]: part for part in paragraph.splitlines() if "**" in part}
    assert "across methods it grows with constrained L2 (τ 1.00 [1.00, 1.00]; closer than any other)" in (
        accuracy := sentences["Test accuracy"]
    )
    assert "it falls with attacked L∞ (-1.00) and attacked L2 (-1.00)" in accuracy
    assert "between the seeds of a method it grows with attacked L2" in accuracy
    assert "No measure is shown to say anything of generalisation gap." in paragraph
    assert "no linear predictor is shown" not in accuracy and "constrained L2 (R² 0.96" in accuracy
    robust = sentences["Robust accuracy L∞"]
    assert "it grows with attacked L2" in robust and "attacked L∞" not in robust, "its own bounds are no predictor"
    assert "Too few networks differ in certified accuracy L2" in paragraph
    assert "| attacked L∞ =" in text and "### certified accuracy L2" not in text


def test_fewer_columns_where_the_screen_is_narrow(reading: Reading) -> None:
    tables = [row for row in render_margins(reading, width=70).splitlines() if row.startswith("|")]
    assert tables and max(map(len, tables)) <= 70
    assert "τ across methods" in tables[0]


def test_the_order_of_the_records_changes_nothing(reading: Reading) -> None:
    turned = Reading(dict(reversed(reading.records.items())), {})
    assert page(turned) == page(reading)


def test_a_network_counts_once(reading: Reading, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        for row, tuning in (("m1+tuned", a_tuning("m1", chosen=0)), ("m1", None), ("m2", None), ("m3", None)):
            found, metrics = arrays(1.0 + int(row[1]) + seed, 1.0, seed), {"clean_accuracy": 1 - seed / POINTS}
            of = {"training": f"{row[:2]} {seed}", "tuning": tuning and tuning.id}
            record = a_record(row, seed, metrics=metrics, identity=of, tuning=tuning)
            write_record(tmp_path / "runs", record, found)
    networks = networks_of(tmp_path)
    (own,) = networks.suites
    assert [network.record.method for network in own].count("m1") == SEEDS and len(own) == 3 * SEEDS
    assert set(margins(networks, ["clean_accuracy"])["networks"]) == {3 * SEEDS}


def test_settings_of_a_method_are_no_independent_draws(tmp_path: Path) -> None:
    """Three methods of eight settings each, whose measure goes with the accuracy between the methods."""
    for row in range(24):
        for seed in range(SEEDS):
            level = 1.0 + 10 * (row % 3) + 0.01 * row
            metrics = {"clean_accuracy": level / 30, "robust_accuracy_linf": level / 30}
            record = a_record(f"m(x={row})", seed, metrics=metrics, identity={"method": f"m{row % 3}"})
            write_record(tmp_path / "runs", claiming(record, "family", "p"), arrays(1.0, level, 0))
    table = margins(read_folders([tmp_path]), ["clean_accuracy"])
    assert set(table["networks"]) == {72} and set(table["rows"]) == {24} and set(table["methods"]) == {3}
    assert table["across_low"].isna().all() and not table["across_shown"].any() and not table["r2_shown"].any()
    assert "72 networks of 3 methods, in 24 rows. So few methods have no intervals" in page(read_folders([tmp_path]))


def test_copies_of_a_setting_teach_nothing(tmp_path: Path) -> None:
    """Five methods of three settings that have the same numbers are told of as the five: no interval is narrower for
    them, no p smaller, and nothing of a method is known while it is left out. With five that all agree p is 2/120,
    more than eight measures may have each."""

    def table(settings: int) -> pd.DataFrame:
        stream, folder = np.random.default_rng(0), tmp_path / str(settings)
        for method in range(5):
            for seed in range(SEEDS):
                drawn = stream.normal(size=6)
                names = [f"linearised_input_{name}" for name in ("q1", "median", "q3")]
                metrics = {"clean_accuracy": 0.5 + 0.05 * method + 0.01 * drawn[0]}
                metrics |= dict(zip([*names, "constrained_margin"], drawn[1:5], strict=True))
                found = arrays(1.0 + method + 0.1 * seed, drawn[5], 0)
                for setting in range(settings):
                    of = {"method": f"m{method}"}
                    record = a_record(f"m{method}(x={setting})", seed, metrics=metrics, identity=of)
                    write_record(folder / "runs", claiming(record, f"family {method % 2}", "p"), found)
        return margins(read_folders([folder]), ["clean_accuracy"])

    alone, copied = table(1), table(3)
    agreeing = alone[alone["measure"] == "attacked_l2"]
    assert (agreeing["across_low"] == 1).all() and not agreeing["across_shown"].any() and alone["r2_low"].notna().all()
    others = ["networks", "rows", "within_shown"]  # the seeds of each setting are shuffled: they are draws of their own
    pd.testing.assert_frame_equal(copied.drop(columns=others), alone.drop(columns=others), rtol=1e-6)


def test_few_methods_have_no_intervals_and_two_no_table(reading: Reading) -> None:
    def of(count: int) -> Reading:
        kept = {path: record for path, record in reading.records.items() if int(record.method[1:]) < count}
        return Reading(kept, {})

    few = margins(of(4), ["clean_accuracy"])
    assert few["tau"].notna().any() and few["tau_low"].isna().all() and not few["across_shown"].any()
    assert "nothing can be said of measures" in render_margins(of(4))
    assert margins(of(2)).empty and "Nothing can be said: fewer than 3 methods" in render_margins(of(2))
    assert render_margins(of(2), "csv").startswith("suite,")


def test_the_best_measure_of_a_gap_is_the_one_with_which_it_falls(tmp_path: Path) -> None:
    """The gap falls with the attacked margin and grows with the output margin."""
    for method in range(METHODS):
        for seed in range(SEEDS):
            margin = 1.0 + method + 0.1 * seed
            metrics = {"clean_accuracy": 0.9, "generalisation_gap": 1 / margin}
            write(tmp_path, f"m{method}", seed, arrays(margin, 1 / margin, 4), metrics)
    found = [line(read_folders([tmp_path]), "generalisation_gap", name) for name in ("attacked_l2", "output_margin")]
    for axis in ("across", "within"):
        assert [of[axis] for of in found] == pytest.approx([-1, 1]) and all(of[f"{axis}_shown"] for of in found)
        assert [of[f"{axis}_best"] for of in found] == [True, False]


def test_gaps_that_float32_alone_tells_apart_are_tied(tmp_path: Path) -> None:
    """Two of 200 images, at accuracies that round in other ways."""
    settings = {"name": "toy", "title": "toy", "data": {"validation": 200}, "evaluation": {"epsilon": EPSILON}}
    gaps = set()
    for method in range(METHODS):
        for seed in range(SEEDS):
            seen, unseen = (float(np.float32((150 + 3 * method - less) / 200)) for less in (0, 2))
            gaps.add(seen - unseen)
            metrics = {"train_accuracy": seen, "validation_accuracy": unseen, "generalisation_gap": seen - unseen}
            found = arrays(1.0 + method + 0.1 * seed, 1.0, 4)
            write(tmp_path, f"m{method}", seed, found, metrics, suite=SuiteFacts.of(settings))
    assert len(gaps) > 1, "the test needs such records"
    tied = line(read_folders([tmp_path]), "generalisation_gap", "attacked_l2")
    assert math.isnan(tied["tau"]) and math.isnan(tied["across"])


def test_information_that_a_family_has_as_well_is_none(tmp_path: Path) -> None:
    """The measure tells three families apart, and nothing inside them: of nine methods each pair is as often turned."""
    inside = [(0, 1), (1, 0), (2, 2)]  # by x and by y: one pair of three is turned, beside chance
    for method in range(9):
        x, y = inside[method // 3]
        family = 10 * (method % 3)
        for seed in range(SEEDS):
            found = arrays(1.0 + family + x, 1.0, 0)
            write(tmp_path, f"m{method}", seed, found, {"clean_accuracy": (50 + family + y) / 100})
    assert line(read_folders([tmp_path]), "clean_accuracy", "attacked_l2")["information"] < 0.2


@pytest.mark.parametrize("known_from", ["row", "seed"])
def test_information_that_a_row_or_a_seed_has_as_well_is_none(tmp_path: Path, known_from: str) -> None:
    """All methods are of one family; rows and seeds both move the accuracy, and the measure is that of one of them."""
    for method in range(6):
        for seed in range(SEEDS):
            measured = arrays(1.0 + (method if known_from == "row" else seed), 1.0 + method + 2 * seed, 0)
            metrics = {"clean_accuracy": 0.5 + 0.02 * method + 0.03 * seed}
            write_record(tmp_path / "runs", claiming(a_record(f"m{method}", seed, metrics=metrics), "f", "p"), measured)
    known = read_folders([tmp_path])
    assert line(known, "clean_accuracy", "attacked_l2")["information"] == pytest.approx(0, abs=1e-9)
    assert line(known, "clean_accuracy", "output_margin")["information"] > 0.5


def exact_reading(folder: Path) -> Reading:
    """Exact margins of 0.1 in L-infinity at all but one point; what the estimators say is a known multiple."""
    truth = np.full(POINTS, 0.1, dtype=np.float32)
    lower = truth.copy()
    lower[-1] = 0.05  # unsolved
    ratios = {"upper_linf_fmn": 1.1, "lower_linf_crown": 0.8, "clever_linf": 0.9, "linearised_linf": 1.5}
    found = {name: (ratio * truth).astype(np.float32) for name, ratio in ratios.items()}
    found["clever_linf"][10:] = np.nan
    found["upper_linf_apgd"] = np.where(np.arange(POINTS) < 30, np.inf, truth).astype(np.float32)
    program = {"upper_linf_milp": truth, "lower_linf_milp": lower, "upper_linf": truth, "lower_linf": lower}
    for method in range(3):
        write(folder, f"m{method}", 0, arrays(0.1, 1.0, 2, **found, **program), {"clean_accuracy": 0.9})
    return read_folders([folder])


def test_tightness_where_the_margin_is_known(tmp_path: Path) -> None:
    reading = exact_reading(tmp_path)
    table = tightness(reading)
    exact = table[table["beside"] == "exact"].set_index("estimator")
    assert list(exact.index) == ["fmn", "apgd", "crown", "clever", "linearised"], "by kind, the nearest first"
    wanted = {"fmn": 1.1, "crown": 0.8, "clever": 0.9, "linearised": 1.5}
    for name, ratio in wanted.items():
        row = exact.loc[name]
        assert [row["median"], row["worst"]] == pytest.approx([ratio] * 2, rel=1e-5)
        assert row["factor"] == pytest.approx(max(ratio, 1 / ratio), rel=1e-5)
        assert row["points"] == 3 * (8 if name == "clever" else POINTS - 3), "correct, known and answered"
    assert exact.loc["linearised", "wrong_side"] == 1 and exact.loc["clever", "wrong_side"] == 0
    assert math.isinf(exact.loc["apgd", "factor"]) and exact.loc["apgd", "answered"] == pytest.approx(9 / 37)
    attacked = table[(table["beside"] == "attacked") & (table["norm"] == "linf")].set_index("estimator")
    assert attacked.loc["(all)", "points"] == 3 * (POINTS - 2) and attacked.loc["(all)", "worst"] == pytest.approx(0.5)
    text = render_margins(reading)
    assert "attack fmn 1.10 and 1.1, certificate crown 0.80 and 0.8 and estimate linearised 1.50 and 1.5." in text
    assert (
        "### How near to the exact margin, L∞" in text and "### How near to the nearest adversarial example, L2" in text
    )


def test_the_ends_of_tightness_leave_out_a_twentieth_of_the_ratios(tmp_path: Path) -> None:
    """Ratios of 1 / 40, 2 / 40, ... 1: counted by hand. One certificate is no `(all)`."""
    shares = np.random.default_rng(0).permutation(POINTS) + 1
    found = arrays(0.4, 1.0, 0, lower_l2_crown=(0.01 * shares).astype(np.float32))
    write(tmp_path, "m0", 0, found | {"lower_l2": found["lower_l2_crown"]}, {"clean_accuracy": 1.0})
    table = tightness(read_folders([tmp_path]))
    (row,) = table[(table["norm"] == "l2") & (table["kind"] == "certificate")].to_dict("records")
    wanted = {"low": 2 / 40, "median": 20 / 40, "high": 38 / 40, "worst": 1 / 40, "factor": 40 / 21, "answered": 1.0}
    assert row["estimator"] == "crown" and {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)


def test_the_command(reading: Reading, tmp_path: Path, run: Run) -> None:
    folder = str(next(iter(reading.records)).parents[1])
    code, out, _ = run("margins", folder, "--target", "clean_accuracy", "--format", "csv")
    assert code == 0 and out.startswith("suite,") and "constrained_margin" in out
    code, out, _ = run(
        "margins", folder, "--target", "clean_accuracy", "--format", "json", "-o", str(tmp_path / "m.json")
    )
    assert code == 0 and not out and (tmp_path / "m.json").read_text().startswith("[")
    code, out, _ = run("margins", folder, "--suite", "toy", "--target", "clean_accuracy")
    assert code == 0 and "### test accuracy" in out and "### generalisation gap" not in out
    code, _, err = run("margins", folder, "--suite", "tay")
    assert code == 2 and "toy" in err
    with pytest.raises(MarginbenchError, match="no record of suite"):
        of_suites(reading, ["digits"])
