"""The table of claims: differences by hand, verdicts, and every method in it."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from made import a_record, claiming

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.claims import LEGEND, claims, render_claims
from marginbench.methods import MarginbenchError, create, register

CLAIMS = {"arcface": "feature_margin", "mma": "input_margin"}
PAPERS = {
    "ce": ("baselines", "-"),
    "mma": ("linearization", "Ding: MMA"),
    "arcface": ("output_margin", "Deng: ArcFace"),
}


def a_run(method: str, repetition: int, **metrics: float) -> Record:
    key = method.partition("(")[0]
    record = a_record(method, repetition, metrics=metrics)
    return claiming(record, *PAPERS[key], *filter(None, [CLAIMS.get(key)])) if key in PAPERS else record


def three(method: str, column: str, *values: float) -> list[Record]:
    return [a_run(method, repetition, **{column: value}) for repetition, value in enumerate(values)]


def test_differences_are_paired_by_repetition() -> None:
    records = three("ce", "feature_margin", 0.1, 0.2, 0.3) + three("arcface", "feature_margin", 0.2, 0.31, 0.39)
    frame = claims(records)
    (row,) = frame.to_dict("records")
    assert row["method"] == "arcface" and row["claim"] == "feature_margin" and row["n"] == 3
    assert row["difference"] == pytest.approx(0.1)  # 0.10, 0.11, 0.09
    assert row["half"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert row["verdict"] == "yes"


@pytest.mark.parametrize(
    ("l2", "linf", "verdict"),
    [
        ((1.5, 1.51, 1.49), (1.0, 2.0, 0.5), "yes"),
        ((0.5, 0.51, 0.49), (0.5, 0.51, 0.49), "no"),
        ((0.5, 0.51, 0.49), (1.0, 1.5, 0.5), "open"),
        ((1.5, 1.51), (1.5, 1.51), "open"),
    ],
)
def test_verdicts(l2: tuple[float, ...], linf: tuple[float, ...], verdict: str) -> None:
    def runs(method: str, first: tuple[float, ...], second: tuple[float, ...]) -> list[Record]:
        pairs = enumerate(zip(first, second, strict=True))
        return [a_run(method, i, margin_upper_l2=a, margin_upper_linf=b) for i, (a, b) in pairs]

    frame = claims(runs("ce", (1.0,) * 3, (1.0,) * 3) + runs("mma", l2, linf))
    assert set(frame["verdict"]) == {verdict} and list(frame["column"]) == ["margin_upper_l2", "margin_upper_linf"]


def test_a_margin_without_adversarial_example_is_no_number() -> None:
    records = three("ce", "margin_upper_l2", 1.0, 1.0, 1.0) + three("mma", "margin_upper_l2", math.inf, 1.0, 1.0)
    row = claims(records).iloc[0]
    assert row["difference"] == float("inf") and pd.isna(row["half"])
    assert row["verdict"] == "open"


def both(method: str, l2: tuple[float, ...], linf: tuple[float, ...]) -> list[Record]:
    pairs = enumerate(zip(l2, linf, strict=True))
    return [a_run(method, i, margin_upper_l2=first, margin_upper_linf=second) for i, (first, second) in pairs]


def test_an_infinite_difference_has_a_sign_and_that_of_two_infinite_margins_no_value() -> None:
    records = both("ce", (1.0, 1.0), (math.inf, 1.0)) + both("mma", (math.inf, 1.0), (math.inf, 2.0))
    assert "input margin: L2 +∞, infinite in both or not a number | open |" in render_claims(records)
    records = both("ce", (math.inf, 1.0), (math.inf, 1.0)) + both("mma", (1.0, 1.0), (1.0, math.inf))
    assert "input margin: L2 -∞, infinite in both or not a number | open |" in render_claims(records)


def test_a_claim_about_nan_is_open() -> None:
    records = both("ce", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) + both("mma", (2.0, 2.1, math.nan), (0.5, 0.5, 0.5))
    assert "input margin: infinite in both or not a number, L∞ -0.500 ± 0.000 | open |" in render_claims(records)


def of_version(records: list[Record], finished: str, **identity: Any) -> list[Record]:
    return [
        replace(record, identity=of, id=of.id, finished=finished)
        for record in records
        for of in [replace(record.identity, **identity)]
    ]


VERSIONS = [
    *three("ce", "feature_margin", 0.1, 0.2, 0.3),
    *three("arcface", "feature_margin", 0.2, 0.31, 0.39),
    *of_version(three("arcface", "feature_margin", 0.0, 0.11, 0.19), "2026-01-02", revision=2),
]


@pytest.mark.parametrize("records", [VERSIONS, VERSIONS[::-1]], ids=["new last", "new first"])
def test_the_newest_version_counts_whatever_the_order(records: list[Record]) -> None:
    (row,) = claims(records).to_dict("records")
    assert row["verdict"] == "no" and row["difference"] == pytest.approx(-0.1)
    assert render_claims(records).count("| arcface |") == 1


def test_two_versions_of_a_suite_are_never_mixed() -> None:
    old = of_version(VERSIONS[:6], "2026-01-01", suite="e" * 64)
    records = VERSIONS[:3] + three("mma", "margin_upper_l2", 1.0, 1.0, 1.0) + old
    frame = claims(records)
    assert dict(zip(frame["suite_fingerprint"], frame["method"], strict=True)) == {"e" * 64: "arcface", "f" * 64: "mma"}
    assert render_claims(records).count("## toy") == 2


def test_runs_on_different_data_are_no_pair() -> None:
    records = VERSIONS[:3] + of_version(VERSIONS[3:6], "2026-01-02", data="c" * 64)
    assert claims(records)["n"].tolist() == [0] and "feature margin: not measured | open |" in render_claims(records)


def test_a_bar_in_a_name_opens_no_column() -> None:
    text = render_claims([claiming(a_record("ce"), "a|b", "c|d")])
    assert r"| ce | a\|b | c\|d | - | - |" in text


def test_every_row_stands_in_the_table_with_its_paper() -> None:
    methods = ("ce", "arcface(m=0.3)", "arcface", "mma", "model")  # the last is nobody's method
    text = render_claims(
        [r for i, m in enumerate(methods) for r in three(m, "feature_margin", *(0.1 * i + d for d in (0.1, 0.2, 0.3)))]
    )
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert list(lines)[2:] == ["ce", "mma", "arcface", "arcface(m=0.3)", "model"] and LEGEND in text
    assert "Deng" in lines["arcface"] and "feature margin: +0.200 ± 0.000 | yes" in lines["arcface"]
    assert "Deng" in lines["arcface(m=0.3)"] and "+0.100" in lines["arcface(m=0.3)"]
    assert lines["mma"].endswith("| input margin: not measured, not measured | open |")
    assert lines["model"].endswith("| - | - | - | - |")


def test_presets_stand_in_the_order_of_their_method_and_variants_after_it() -> None:
    rows = [("zeta", 1), ("alpha", 2), ("jac", 0), ("jac(a=2)", 0)]
    records = [
        claiming(a_record(row, identity={"method": "jac"}), "lipschitz", "-", place=place) for row, place in rows
    ]
    text = render_claims(records)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")][2:] == [
        "jac",
        "jac(a=2)",
        "zeta",
        "alpha",
    ]


def test_claims_are_those_of_the_record_not_of_what_is_installed() -> None:
    """A plug-in that is not loaded, and a method whose claims have changed since."""
    records = three("ce", "feature_margin", 0.1, 0.2, 0.3) + three("arcface", "feature_margin", 0.2, 0.31, 0.39)
    gone = [replace(record, method="gone") for record in records[3:]]
    assert claims([*records[:3], *gone])["method"].tolist() == ["gone"]
    silent = [replace(record, about=replace(record.about, claims=())) for record in records]
    assert claims(silent).empty


def test_an_unknown_claim_is_refused() -> None:
    cls = type(create("arcface"))
    info = cls.info.__class__(**{**cls.info.__dict__, "key": "mine", "claims": ("input_margn",)})
    mine = type("Mine", (cls,), {"__doc__": cls.__doc__, "info": info})
    with pytest.raises(MarginbenchError, match="did you mean 'input_margin'"):
        register(mine)
