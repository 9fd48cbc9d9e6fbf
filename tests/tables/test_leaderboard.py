"""The leaderboard as a pure function of records, on records whose numbers are known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import SCHEMA, Record, read_arrays, read_record, write_record
from marginbench.benchmarks.tables.leaderboard import COLUMNS, leaderboard, load, read_records
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.benchmarks.tables.statistics import mean_and_interval
from marginbench.methods import MarginbenchError

EPSILON: dict[Any, float] = {"l2": 0.5, "linf": 0.1}


def record(method: str, repetition: int, clean: float | None = 0.9, **changes: Any) -> Record:
    identity = {
        "suite": "f" * 64,
        "method": method.partition("(")[0],
        "revision": 1,
        "source": None,
        "spec": method,
        "repetition": repetition,
        **changes.pop("identity", {}),
    }
    values: dict[str, Any] = {
        "schema_version": SCHEMA,
        "id": digest(identity),
        "identity": identity,
        "method": method,
        "repetition": repetition,
        "status": "done",
        "metrics": {"points": 10, "clean_accuracy": clean, "robust_accuracy_l2": clean},
        "cost": {"seconds": 2.0 if method == "ce" else 5.0},
        "suite": {"name": "toy", "title": "toy_suite 100%", "evaluation": {"epsilon": EPSILON}},
        "environment": {
            "host": "h",
            "device": "cpu",
            "processor": "p",
            "cores": 2,
            "commit": "c0ffee",
            "versions": {"torch": "2"},
        },
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**values, **changes})


def failed(method: str, repetition: int) -> Record:
    return record(method, repetition, status="failed", error="RuntimeError: no | luck", metrics={}, cost={})


def test_mean_and_student_interval() -> None:
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))  # t quantile 0.975 with 2 degrees of freedom
    assert mean_and_interval([1.0, 2.0]) == (1.5, None)
    assert mean_and_interval([1.0, math.inf, 1.0]) == (math.inf, None)
    assert math.isnan(mean_and_interval([])[0]) and math.isnan(mean_and_interval([1.0, math.nan, 2.0])[0])


def test_rows_are_means_over_seeds_with_n() -> None:
    records = [record("ce", i, 0.9 + 0.01 * i) for i in range(3)] + [record("pmm", i) for i in range(2)]
    table = leaderboard(records).set_index("method")
    assert list(table["n"]) == [3, 2]
    assert table.loc["ce", "clean_accuracy"] == pytest.approx(0.91)
    assert table.loc["ce", "clean_accuracy_ci95"] == pytest.approx(0.01 * 4.302652729911275 / math.sqrt(3))
    assert pd.isna(table.loc["pmm", "clean_accuracy_ci95"])
    assert table.loc["pmm", "cost"] == 2.5 and table.loc["ce", "cost"] == 1.0


def test_cost_is_relative_to_the_median_of_ce() -> None:
    times = [2.0, 2.0, 8.0]
    records = [record("ce", i, cost={"seconds": t}) for i, t in enumerate(times)] + [record("pmm", 0)]
    assert leaderboard(records).set_index("method")["cost"].to_dict() == {"ce": 2.0, "pmm": 2.5}


def test_cost_is_compared_on_one_machine_only() -> None:
    other = {"host": "other", "device": "cpu", "versions": {}}
    table = leaderboard([record("ce", 0), record("pmm", 0, environment=other)]).set_index("method")
    assert pd.isna(table.loc["pmm", "cost"])


def test_missing_stays_missing_and_failures_are_rows() -> None:
    records = [record("ce", 0), record("pmm", 0), failed("pmm", 1), failed("mma", 0)]
    table = leaderboard(records).set_index("method")
    assert table.loc["pmm", "n"] == 1 and table.loc["pmm", "failed"] == 1
    assert table.loc["mma", "n"] == 0 and pd.isna(table.loc["mma", "clean_accuracy"])
    assert pd.isna(table.loc["ce", "margin_upper_l2"])
    text = render(leaderboard(records), records, "md")
    assert "FAILED 1x: RuntimeError: no" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, "a | in an error must not open a column"


def test_an_unmoved_point_makes_the_mean_infinite() -> None:
    record_ = record(
        "ce", 0, metrics={"points": 10, "clean_accuracy": 1.0, "margin_upper_l2": None, "unattacked_l2": 0.2}
    )
    table = leaderboard([record_])
    assert table["margin_upper_l2"][0] == math.inf
    text = render(table, [record_], "md")
    assert "∞]" in text and "ce 20.0%" in text


def exact(method: str, repetition: int, solved: int, points: int, **changes: Any) -> Record:
    estimators = {"milp_linf": {"seconds": 1.5, "points": points, "solved": solved}, "crown_linf": {"seconds": 0.1}}
    return record(method, repetition, estimators=estimators, **changes)


def test_points_that_were_not_solved_are_told() -> None:
    old = exact("pmm", 0, 7, 7)
    new = {"identity": {"revision": 2}}
    records = [exact("ce", 0, 5, 9), exact("ce", 1, 9, 9), old, exact("pmm", 0, 6, 8, **new), record("mma", 0)]
    text = render(leaderboard(records), records, "md")
    assert "Exact margins (milp, L∞), correct points solved: ce 14 of 18, pmm 6 of 8." in text
    assert r"(milp, L$\infty$), correct points solved: ce 14 of 18" in render(leaderboard(records), records, "tex")
    assert "Exact margins" not in render(leaderboard(records[-1:]), records[-1:], "md")


def test_older_revisions_and_sources_show_as_stale() -> None:
    old, new = record("pmm", 0), record("pmm", 0, identity={"revision": 2})
    table = leaderboard([old, new])
    assert sorted(table["doubts"]) == ["", "stale"]
    first = record("mine", 0, identity={"source": "bbb"}, finished="2026-01-01T00:00:00+00:00")
    later = record("mine", 0, identity={"source": "aaa"}, finished="2026-01-02T00:00:00+00:00", clean=0.1)
    table = leaderboard([first, later])
    assert list(table[table["doubts"] == ""]["clean_accuracy"]) == [0.1]


def test_two_suites_are_never_mixed() -> None:
    records = [record("ce", 0), record("ce", 0, identity={"suite": "e" * 64})]
    assert list(leaderboard(records)["n"]) == [1, 1]
    assert render(leaderboard(records), records, "md").count("## toy") == 2


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_sorts(column: str) -> None:
    leaderboard([record("ce", 0), record("pmm", 0, 0.95), failed("mma", 0)], sort=column)


def test_sorting_puts_the_best_first_and_failures_last() -> None:
    records = [record("ce", 0, 0.8), failed("mma", 0), record("pmm", 0, 0.95)]
    assert list(leaderboard(records)["method"]) == ["pmm", "ce", "mma"]
    assert list(leaderboard(records, sort="cost")["method"]) == ["ce", "pmm", "mma"]
    with pytest.raises(MarginbenchError, match="did you mean 'cost'"):
        leaderboard(records, sort="costs")


@pytest.mark.parametrize("form", FORMATS)
def test_formats_hold_every_row(form: str) -> None:
    records = [record("ce", 0), record("arcface(m=0.1)", 0), failed("jacobian_reg", 0)]
    text = render(leaderboard(records), records, form)
    assert text == render(leaderboard(reversed(records)), records, form), "the order of the files must not matter"
    name = r"jacobian\_reg" if form == "tex" else "jacobian_reg"
    assert name in text and "arcface" in text


def test_latex_escapes_what_latex_would_read() -> None:
    records = [record("jacobian_reg", 0), failed("pmm", 0)]
    text = render(leaderboard(records), records, "tex")
    body = text.replace(r"\%", "").replace(r"\_", "").replace(r"\#", "")
    assert "%" not in body and "_" not in body and "#" not in body and "∞" not in body


def test_records_come_back_and_folders_may_overlap(tmp_path: Path) -> None:
    runs = tmp_path / "toy" / "runs"
    arrays = {"upper_l2": np.array([0.5, np.inf], dtype=np.float32)}
    path = write_record(runs, record("ce", 0), arrays)
    write_record(runs, failed("pmm", 0), {})
    assert read_record(path).method == "ce"
    assert np.array_equal(read_arrays(path)["upper_l2"], arrays["upper_l2"])
    assert len(read_records([tmp_path, tmp_path / "toy", runs])) == 2
    assert len(load(tmp_path)) == 2
    assert not [p for p in runs.iterdir() if p.name.startswith(".")]


def test_metrics_follow_their_definitions() -> None:
    arrays = {
        "label": np.array([0, 0, 1, 1]),
        "prediction": np.array([0, 0, 1, 0]),
        "output_margin": np.array([1.0, 1.0, 2.0, -1.0]),
        "upper_l2": np.array([0.4, 0.6, np.inf, 0.0]),
        "lower_l2": np.array([0.1, 0.5, 0.2, 0.0]),
        "upper_linf": np.array([0.1, 0.2, 0.3, 0.0]),
        "lower_linf": np.array([0.1, 0.0, 0.05, 0.0]),
    }
    nothing = summarise(arrays, EPSILON)
    assert not [name for name in nothing if "certified" in name or "lower" in name]  # no certificate, no number
    arrays |= {"lower_l2_crown": arrays["lower_l2"], "lower_linf_own": arrays["lower_linf"]}
    found = summarise(arrays, EPSILON)
    assert found["clean_accuracy"] == 0.75
    assert found["robust_accuracy_l2"] == 0.5 and found["robust_accuracy_linf"] == 0.5  # 0.1 is not beyond 0.1
    assert found["certified_accuracy_l2"] == 0.25 and found["certified_accuracy_linf"] == 0.25  # 0.5 reaches 0.5
    assert found["margin_upper_l2"] == math.inf and found["unattacked_l2"] == pytest.approx(1 / 3)
    assert found["margin_lower_l2"] == pytest.approx(0.2)
