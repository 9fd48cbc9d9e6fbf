"""The leaderboard as a pure function of records, on records whose numbers are known."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import ENVIRONMENT, EPSILON, a_failure, a_record, a_suite
from scipy.stats import t

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.statistics.paired import mean_and_interval, quantile
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.frame import leaderboard
from marginbench.benchmarks.tables.leaderboard import load, rank
from marginbench.benchmarks.tables.notes import notes
from marginbench.benchmarks.tables.render import FORMATS, render
from marginbench.methods.errors import ParameterError


def test_mean_and_student_interval() -> None:
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))  # t quantile 0.975 with 2 degrees of freedom
    assert mean_and_interval([1.0, 2.0]) == (1.5, None)
    assert mean_and_interval([1.0, math.inf, 1.0]) == (math.inf, None)
    assert math.isnan(mean_and_interval([math.inf, 1.0, -math.inf])[0])
    assert math.isnan(mean_and_interval([])[0]) and math.isnan(mean_and_interval([1.0, math.nan, 2.0])[0])


@pytest.mark.parametrize("share", [0.975, 0.9875])
@pytest.mark.parametrize("degrees", range(1, 15))
def test_quantiles_are_those_of_scipy_to_the_bit(degrees: int, share: float) -> None:
    assert quantile(share, degrees) == float(t.ppf(share, degrees))


def test_rows_are_means_over_seeds_with_n() -> None:
    records = [a_record("ce", i, 0.9 + 0.01 * i) for i in range(3)] + [a_record("pmm", i) for i in range(2)]
    table = leaderboard(records).set_index("method")
    assert list(table["n"]) == [3, 2]
    assert table.loc["ce", "clean_accuracy"] == pytest.approx(0.91)
    assert table.loc["ce", "clean_accuracy_ci95"] == pytest.approx(0.01 * 4.302652729911275 / math.sqrt(3))
    assert pd.isna(table.loc["pmm", "clean_accuracy_ci95"])
    assert table.loc["pmm", "cost"] == 2.5 and table.loc["ce", "cost"] == 1.0


def test_cost_is_relative_to_the_median_of_ce() -> None:
    times = [2.0, 2.0, 8.0]
    records = [a_record("ce", i, cost={"seconds": t}) for i, t in enumerate(times)] + [a_record("pmm", 0)]
    assert leaderboard(records).set_index("method")["cost"].to_dict() == {"ce": 2.0, "pmm": 2.5}


def test_a_note_says_where_costs_are_of_groups_of_different_sizes() -> None:
    def noted(**together: Sequence[float | None]) -> list[str]:
        costs = [(row, seed, size) for row, sizes in together.items() for seed, size in enumerate(sizes)]
        records = [a_record(row, seed, cost={"seconds": 1.0, "together": size}) for row, seed, size in costs]
        return [note for note in notes([], records) if note.startswith("Trainings done at once")]

    (note,) = noted(ce=[6.0], pmm=[5.95], lmt=[1.0])
    assert ": ce 6, lmt 1, pmm 5.95. " in note
    assert noted(ce=[3.0], pmm=[2.9]) == [] and noted(ce=[1.0], pmm=[None]) == []
    assert ": ce 4, pmm 2.5. " in noted(ce=[6.0, 2.0], pmm=[2.0, 3.0])[0], "means over seeds"


def test_a_note_says_which_rows_mix_states_of_the_code() -> None:
    def noted(**commits: str) -> list[str]:
        places = [replace(ENVIRONMENT, commit=commit) for commit in commits.values()]
        records = [a_record("ce", seed, environment=place) for seed, place in enumerate(places)]
        return [note for note in notes([], [*records, a_record("pmm")]) if "edited in between" in note]

    (note,) = noted(a="c0ffee", b="c0ffee+12ab")
    assert "(commits c0ffee, c0ffee+12ab): ce. Runs of a built-in method" in note
    assert noted(a="c0ffee", b="decaf") == noted(a="c0ffee+12ab", b="c0ffee+12ab") == []


@pytest.mark.parametrize("other", [{"host": "other"}, {"device": "cuda"}, {"threads": 7}])
def test_cost_is_compared_on_one_machine_only(other: dict[str, Any]) -> None:
    """That of the training, wherever the network was evaluated."""
    elsewhere = replace(ENVIRONMENT, **other)
    records = [
        a_record("ce", 0),
        a_record("pmm", 0, environment=elsewhere),
        a_record("mma", 0, trained=elsewhere),
        a_record("svm", 0, environment=elsewhere, trained=ENVIRONMENT),
    ]
    cost = leaderboard(records).set_index("method")["cost"]
    assert pd.isna(cost["pmm"]) and pd.isna(cost["mma"]) and cost["svm"] == 2.5


def test_missing_stays_missing_and_failures_are_rows() -> None:
    records = [a_record("ce", 0), a_record("pmm", 0), a_failure("pmm", 1), a_failure("mma", 0)]
    table = leaderboard(records).set_index("method")
    assert table.loc["pmm", "n"] == 1 and table.loc["pmm", "failed"] == 1
    assert table.loc["mma", "n"] == 0 and pd.isna(table.loc["mma", "clean_accuracy"])
    assert pd.isna(table.loc["ce", "margin_upper_l2"])
    text = render(records, "md")
    assert "FAILED 1x: RuntimeError: no" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, "a | in an error must not open a column"


def test_nan_comes_last_whichever_way_a_column_is_sorted() -> None:
    def three(method: str, *values: float) -> list[Record]:
        metrics = ({"points": 10.0, "margin_upper_l2": value, "unattacked_l2": value} for value in values)
        return [a_record(method, repetition, metrics=each) for repetition, each in enumerate(metrics)]

    records = three("a", math.nan, 0.5, 0.5) + three("b", 0.1, 0.2, 0.3) + three("c", 0.5, 0.6, 0.7)
    for sort, order in (("margin_upper_l2", "cba"), ("unattacked_l2", "bca")):
        for column in (sort, f"{sort}_ci95"):
            table = leaderboard(records, column).set_index("method")
            assert table.index[-1] == "a" and table.loc["a", [sort, f"{sort}_ci95"]].isna().all()
        assert "".join(leaderboard(records, sort)["method"]) == order
    last = render(records, "csv", Choice("margin_upper_l2")).splitlines()[-1]
    assert ",a," in last and "inf" not in last
    for line in render(records, "md", Choice("margin_upper_l2")).splitlines():
        if line.startswith("| a "):
            assert "∞" not in line and line.split("|")[2].strip() == "—"


def test_json_tells_infinity_from_nan() -> None:
    values = (math.inf, -math.inf, math.nan, 0.25)
    metrics = ({"points": 1.0, "output_margin": value} for value in values)
    records = [a_record(method, metrics=each) for method, each in zip("abcd", metrics, strict=True)]
    rows = json.loads(render(records, "json", Choice("method")))
    assert [row["output_margin"] for row in rows] == ["inf", "-inf", None, 0.25]
    assert rows[0]["clean_accuracy"] is None


def test_an_unmoved_point_makes_the_mean_infinite() -> None:
    record_ = a_record(
        "ce", 0, metrics={"points": 10, "clean_accuracy": 1.0, "margin_upper_l2": math.inf, "unattacked_l2": 0.2}
    )
    table = leaderboard([record_])
    assert table["margin_upper_l2"][0] == math.inf
    text = render([record_], "md")
    assert "∞]" in text and "ce 20.0%" in text


def exact(method: str, repetition: int, solved: int, points: int, **changes: Any) -> Record:
    estimators = {"milp_linf": {"seconds": 1.5, "points": points, "solved": solved}, "crown_linf": {"seconds": 0.1}}
    return a_record(method, repetition, estimators=estimators, **changes)


def test_points_that_were_not_solved_are_told() -> None:
    old = exact("pmm", 0, 7, 7)
    new = {"identity": {"revision": 2}}
    records = [exact("ce", 0, 5, 9), exact("ce", 1, 9, 9), old, exact("pmm", 0, 6, 8, **new), a_record("mma", 0)]
    text = render(records, "md")
    assert "Exact margins (milp, L∞), correct points solved: ce 14 of 18, pmm 6 of 8." in text
    assert "% Exact margins (milp, L∞), correct points solved: ce 14 of 18" in render(records, "tex")
    assert "Exact margins" not in render(records[-1:], "md")


def test_older_revisions_and_sources_show_as_stale() -> None:
    old, new = a_record("pmm", 0), a_record("pmm", 0, identity={"revision": 2})
    table = leaderboard([old, new])
    assert sorted(table["doubts"]) == ["", "stale"]
    first = a_record("mine", 0, identity={"source": "bbb"}, finished="2026-01-01T00:00:00+00:00")
    later = a_record("mine", 0, identity={"source": "aaa"}, finished="2026-01-02T00:00:00+00:00", clean=0.1)
    table = leaderboard([first, later])
    assert list(table[table["doubts"] == ""]["clean_accuracy"]) == [0.1]


def test_two_suites_are_never_mixed() -> None:
    records = [a_record("ce", 0), a_record("ce", 0, identity={"suite": "e" * 64})]
    assert list(leaderboard(records)["n"]) == [1, 1]
    assert render(records, "md").count("## toy") == 2


PROBE = (Column("probe_rate", "probe %", 100, 1, ascending=True), Column("probe_radius_l2", "probe radius L2"))


def three_rows(name: str) -> list[Record]:
    """Rows whose order by one column is low, middle, high, and a failure."""
    texts = {"low": 0.25, "middle": 0.5, "high": 0.75}
    records = []
    for method, value in texts.items():
        for repetition in range(3):
            spread = value * (repetition - 1) if name.endswith("_ci95") else 0.0
            metric = name.removesuffix("_ci95").replace("unknown", "robust_accuracy")
            cost = {"seconds": value, "steps": value, "forward": 1.0, "backward": 1.0}
            metrics = {"points": 10.0, metric: value + spread}
            records.append(a_record(method, repetition, metrics=metrics, columns=list(PROBE), cost=cost))
    cost = {"seconds": 2.0, "steps": 2.0, "forward": 1.0, "backward": 1.0}
    baseline = [
        a_record("ce", repetition, metrics={"points": 10.0}, columns=list(PROBE), cost=cost) for repetition in range(3)
    ]
    return [*records[::-1], a_failure("none"), *(baseline if name.startswith(("cost", "passes")) else [])]


@pytest.mark.parametrize("name", [column.name + end for column in columns.measured(PROBE) for end in ("", "_ci95")])
def test_every_measured_column_sorts_the_best_first_and_what_is_missing_last(name: str) -> None:
    """Costs are seconds of the row over those of ce; narrow intervals are good, and a width of 0 in all is no order."""
    shares = [f"{name}_{norm}" for name in ("unattacked", "unknown") for norm in ("l2", "linf")]
    small = name in ("cost", "passes", "generalisation_gap", "probe_rate", *shares) or name.endswith("_ci95")
    wanted = ["low", "middle", "high"] if small else ["high", "middle", "low"]
    if name in ("cost", "passes"):
        wanted = [*wanted, "ce"]  # its seconds are 2, its passes 4
    if name in ("cost_ci95", "passes_ci95"):
        wanted = ["ce", "high", "low", "middle"]  # all 0: by name
    assert list(leaderboard(three_rows(name), name)["method"]) == [*wanted, "none"]


def test_what_no_certificate_decides_is_unknown_as_far_as_it_is_robust() -> None:
    """0.75 - 0.5 with one, all of 0.75 without; nothing where no attack was asked."""
    robust = {"points": 10.0, "robust_accuracy_l2": 0.75}
    made = [a_record("some", metrics={**robust, "certified_accuracy_l2": 0.5}), a_record("none", metrics=robust)]
    frame = leaderboard(made).set_index("method")
    assert frame["unknown_l2"].to_dict() == {"some": 0.25, "none": 0.75} and frame["unknown_linf"].isna().all()


def test_folders_or_records_make_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [a_record("ce", 0), a_record("pmm", 0)]
    for record in records:
        write_record(tmp_path / "results" / "local" / "toy" / "runs", record, {})
    monkeypatch.chdir(tmp_path)
    wanted = leaderboard(records, "cost")
    for source in ("results", [Path("results/local/toy")], ["results/local", tmp_path], iter(records)):
        pd.testing.assert_frame_equal(leaderboard(source, "cost"), wanted)
    assert len(leaderboard()) == len(load()) == 2, "results/local, as on the command line"
    pd.testing.assert_frame_equal(leaderboard(load(), "cost"), wanted)


def test_a_home_folder_may_be_written_as_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "mine" / "runs", a_record("ce"), {})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("~/mine")) == len(leaderboard("~/mine")) == 1


FACTS = {
    "method": ["a", "b", "c"],
    "key": ["a", "b", "c"],
    "n": ["b", "a", "c"],
    "failed": ["a", "b", "c"],
    "points": ["b", "a", "c"],
}
ORDERS_NOTHING = ("suite", "suite_fingerprint", "doubts", "error")


def test_these_are_all_columns() -> None:
    facts = FACTS.keys() | {*ORDERS_NOTHING}
    assert facts == {column.name for column in (*columns.FACTS, *columns.TEXTS)}
    others = {column.name for column in (*columns.measured(), *columns.SURELY_BETTER.values(), *columns.PARETO)}
    assert {column.name for column in columns.all_columns()} - facts == others


@pytest.mark.parametrize(("name", "wanted"), FACTS.items())
def test_every_fact_sorts(name: str, wanted: list[str]) -> None:
    many = {"points": 20.0, "clean_accuracy": 0.1}
    records = [
        a_failure("c"),
        a_record("a", 0, doubts={"noise_wins": "here"}),
        *(a_record("b", repetition, metrics=many) for repetition in range(2)),
    ]
    assert list(leaderboard(records, name)["method"]) == wanted


@pytest.mark.parametrize("name", [*ORDERS_NOTHING, *(column.name for column in columns.PARETO)])
def test_a_text_orders_no_rows(name: str) -> None:
    with pytest.raises(ParameterError, match=f"by='{name}': orders no rows; what does: .*method.*clean_accuracy"):
        leaderboard([a_record("ce")], by=name)


def test_sorting_puts_the_best_first_and_failures_last() -> None:
    records = [a_record("ce", 0, 0.8), a_failure("mma", 0), a_record("pmm", 0, 0.95)]
    assert list(leaderboard(records)["method"]) == ["pmm", "ce", "mma"]
    assert list(leaderboard(records, by="cost")["method"]) == ["ce", "pmm", "mma"]
    with pytest.raises(ParameterError, match="by='costs': no such column: did you mean 'cost'"):
        leaderboard(records, by="costs")


@pytest.mark.parametrize("form", FORMATS)
def test_formats_hold_every_row(form: str) -> None:
    records = [a_record("ce", 0), a_record("arcface(m=0.1)", 0), a_failure("jacobian_reg", 0)]
    text = render(records, form)
    assert text == render(records[::-1], form), "the order of the files must not matter"
    name = r"jacobian\_reg" if form == "tex" else "jacobian_reg"
    assert name in text and "arcface" in text


def test_latex_escapes_what_latex_would_read() -> None:
    records = [a_record("jacobian_reg", 0), a_failure("pmm", 0)]
    text = render(records, "tex")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    body = body.replace(r"\%", "").replace(r"\_", "").replace(r"\#", "")
    assert "%" not in body and "_" not in body and "#" not in body and "∞" not in body


def test_latex_escapes_the_caption_as_the_cells() -> None:
    signs = "a & b $ c { d } e ~ f ^ g \\"
    suite = a_suite(title=signs)
    text = render([a_record("ce", suite=suite), a_failure("pmm", suite=suite)], "tex")
    wanted = r"a \& b \$ c \{ d \} e \textasciitilde  f \textasciicircum  g \textbackslash "
    assert wanted in text.partition("\\begin{tabular}")[0]


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


def test_the_columns_of_probes_come_from_the_records() -> None:
    """Of a probe that this version does not know, with its unit, its place and its note."""
    found = {"points": 10.0, "probe_rate": 0.125, "probe_radius_l2": 0.25}
    records = [
        a_record("ce", metrics=found, columns=list(PROBE), notes=["probe = what was probed."]),
        a_record("svm", identity={"suite": "e" * 64}),
    ]
    text = render(records, "md")
    (with_probe,) = (page for page in text.split("\n## ") if "probe %" in page)
    assert "|   probe % |" in with_probe and " 12.5 |" in with_probe and " 0.250 |" in with_probe
    assert text.count("probe %") == 1 and text.count("- probe = what was probed.") == 1
    frame = leaderboard(records).set_index("method")
    assert frame.loc["ce", "probe_radius_l2"] == 0.25 and pd.isna(frame.loc["svm", "probe_radius_l2"])
    assert list(frame.columns).index("probe_rate") == list(frame.columns).index("cost") - 4


def test_a_doubt_is_explained_by_its_record() -> None:
    doubt = {"doubts": {"hunch": "3 points"}, "explanations": {"hunch": "What nobody else knows."}}
    assert "- hunch: What nobody else knows." in render([a_record("ce", **doubt)], "md")


def test_the_newest_words_explain_a_doubt() -> None:
    def doubted(day: int, words: str) -> Record:
        explained: dict[str, Any] = {"doubts": {"hunch": "3 points"}, "explanations": {"hunch": words}}
        return a_record("ce", day, finished=f"2026-01-{day:02}T00:00:00+00:00", **explained)

    records = [doubted(1, "Old."), doubted(3, "New."), doubted(2, "Older than new.")]
    assert "hunch: New." in list(notes([], records))


def test_a_note_on_points_that_no_attack_moved_is_of_rows_that_count() -> None:
    def unmoved(revision: int, share: float) -> Record:
        metrics = {"points": 10.0, "clean_accuracy": 1.0, "unattacked_l2": share}
        return a_record("ce", metrics=metrics, identity={"revision": revision})

    records = [unmoved(1, 0.25), unmoved(2, 0.125)]
    found = [note for note in notes(rank(records), records) if "could move" in note]
    assert found == ["Correct points that no L2 attack could move: ce 12.5%."]


def test_the_page_names_every_machine_and_version() -> None:
    assert "- 2026-01-01, cpu, p, 2 cores; torch 2; commit c0ffee." in render([a_record("ce")], "md")
    versions: dict[str, str | None] = {"torch": "3", "numpy": "2", "idna": "1"}
    other = replace(ENVIRONMENT, device="NVIDIA H100", cores=16, versions=versions, commit=None)
    records = [a_record("ce"), a_record("pmm", environment=other, finished="2026-01-03T00:00:00+00:00")]
    text = render(records, "md")
    assert "- 2026-01-01 to 2026-01-03, NVIDIA H100, p, 16 cores and cpu, p, 2 cores; torch 2 and 3" in text
    assert "idna" not in text, "the records name it, and a page would be full of such"
    assert "numpy 2" in text and "commit None, c0ffee." in text and text == render(records[::-1], "md")


def test_pages_show_shares_with_linf_first_and_distances_with_l2_first() -> None:
    header = render([a_record("ce")], "md").splitlines()[2]
    names = [cell.strip() for cell in header.strip("|").split("|")]
    first = ["method", "robust % L2 0.5"]  # which orders the rows
    shares = ["clean %", "robust % L∞ 0.1", "certified % L∞ 0.1", "certified % L2 0.5"]
    assert names == [*first, *shares, "margin L2", "margin L∞", "cost"]


def test_tables_of_older_rules_say_so() -> None:
    old = "Measured by the rules of an older marginbench"
    assert old in render([a_record("ce", 0, identity={"schema": 1})], "md")
    assert old not in render([a_record("ce", 0)], "md")
