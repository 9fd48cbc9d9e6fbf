"""The table of claims: differences by hand, verdicts, and every method in it."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import a_record, a_tuning, claiming

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.statistics.pairwise import pairwise
from marginbench.benchmarks.tables.claims import LEGEND, claims, render_claims
from marginbench.benchmarks.tables.notes import notes
from marginbench.methods import MarginbenchError, create, register

CLAIMS = {"arcface": "feature_margin", "mma": "input_margin", "ccat": "rejection"}
PAPERS = {
    "ce": ("baselines", "-"),
    "mma": ("linearization", "Ding: MMA"),
    "arcface": ("output_margin", "Deng: ArcFace"),
    "ccat": ("linearization", "Stutz: CCAT"),
}


COLUMNS = tuple(  # of a probe: known network by network, so that no arrays are needed
    Column(f"rejection_robust_accuracy_{norm}", f"rejecting {norm}", 100, 1) for norm in ("l2", "linf")
)
L2, LINF = (column.name for column in COLUMNS)


def a_run(method: str, repetition: int, **metrics: float) -> Record:
    key = method.partition("(")[0]
    record = replace(a_record(method, repetition, metrics=metrics), columns=COLUMNS)
    return claiming(record, *PAPERS[key], *filter(None, [CLAIMS.get(key)])) if key in PAPERS else record


def read(records: Iterable[Record]) -> Reading:
    """As if they had been read, without their arrays."""
    return Reading({Path(record.id): record for record in records}, {})


def three(method: str, column: str, *values: float) -> list[Record]:
    return [a_run(method, repetition, **{column: value}) for repetition, value in enumerate(values)]


def test_differences_are_those_of_all_pairs() -> None:
    """Of two rows: Student's paired t test."""
    own, base = (0.2, 0.31, 0.39), (0.1, 0.2, 0.3)
    (row, other) = claims(read(three("ce", L2, *base) + three("ccat", L2, *own))).to_dict("records")
    assert row["method"] == "ccat" and row["claim"] == "rejection" and row["n"] == 3 and other["n"] == 0
    assert row["difference"] == pytest.approx(0.1)  # 0.10, 0.11, 0.09
    seeds = np.array([base, own])
    wanted = pairwise(seeds, size=(share := (seeds.mean(1) * 100 + 2) / 104) * (1 - share))
    assert row["high"] - row["low"] == pytest.approx(2 * wanted.half[0, 1]) and row["p"] == wanted.p[0, 1]
    assert row["verdict"] == "yes"


def test_a_tuned_row_that_keeps_the_default_is_no_further_evidence() -> None:
    def runs(method: str, of: str, *values: float, **changes: Any) -> list[Record]:
        named = [replace(record, **changes) for record in three(method, L2, *values)]
        trained = (replace(r.identity, training=f"{of} {r.repetition}") for r in named)
        return [replace(r, identity=of, id=of.id) for r, of in zip(named, trained, strict=True)]

    own, base = (0.24, 0.31, 0.39), (0.1, 0.2, 0.3)
    rows = [*runs("ce", "ce", *base), *runs("ccat", "ccat", *own)]
    copies = [
        *runs("ce+tuned", "ce", *base, tuning=a_tuning("ce", chosen=0)),
        *runs("ccat+tuned", "ccat", *own, tuning=a_tuning("ccat", chosen=0)),
    ]
    alone = claims(read(rows))
    both = claims(read([*rows, *copies]))
    pd.testing.assert_frame_equal(alone, both[both["method"] == "ccat"].reset_index(drop=True))
    words = "Rows that share networks: ccat+tuned with ccat, ce+tuned with ce. They count once"
    assert words in "\n".join(notes([], [*copies, *rows]))
    assert not any("count once" in note for note in notes([], rows))


@pytest.mark.parametrize(
    ("l2", "linf", "verdict"),
    [
        ((0.8, 0.81, 0.79), (0.5, 0.9, 0.1), "yes"),
        ((0.2, 0.21, 0.19), (0.2, 0.21, 0.19), "no"),
        ((0.2, 0.21, 0.19), (0.5, 0.9, 0.1), "open"),
        ((0.8, 0.81), (0.8, 0.81), "open"),
    ],
)
def test_verdicts(l2: tuple[float, ...], linf: tuple[float, ...], verdict: str) -> None:
    def runs(method: str, first: tuple[float, ...], second: tuple[float, ...]) -> list[Record]:
        return [a_run(method, i, **{L2: a, LINF: b}) for i, (a, b) in enumerate(zip(first, second, strict=True))]

    level = (0.5, 0.51, 0.49)
    frame = claims(read(runs("ce", level, level) + runs("ccat", l2, linf)))
    assert set(frame["verdict"]) == {verdict} and list(frame["column"]) == [L2, LINF]


def test_a_claim_of_two_columns_is_held_to_half_the_level() -> None:
    spread = 0.012
    values = [(0.5 + shift, 0.5 + shift + spread, 0.5 + shift - spread) for shift in np.linspace(0, 0.3, 61)]
    seen = set()
    for own in values:
        level = (0.5, 0.49, 0.51)
        both_columns = [a_run("ce", i, **{L2: v, LINF: v}) for i, v in enumerate(level)]
        both_columns += [a_run("ccat", i, **{L2: v, LINF: level[i]}) for i, v in enumerate(own)]
        row = claims(read(both_columns)).iloc[0]
        assert (row["verdict"] == "yes") == (row["p"] < 0.025 and row["difference"] > 0)
        seen.add((row["verdict"], row["p"] < 0.05))
    assert seen == {("open", False), ("open", True), ("yes", True)}, "some lie between the levels"


def test_without_arrays_nothing_is_said_of_what_is_known_point_by_point() -> None:
    records = three("ce", "feature_margin", 0.1, 0.2, 0.3) + three("arcface", "feature_margin", 0.2, 0.31, 0.39)
    (row,) = claims(read(records)).to_dict("records")
    assert row["difference"] == pytest.approx(0.1) and row["n"] == 3 and row["verdict"] == "open"
    assert pd.isna(row["low"]) and pd.isna(row["p"])
    assert "feature margin: +0.100 | open |" in render_claims(read(records))


def test_a_margin_without_adversarial_example_is_no_number() -> None:
    records = three("ce", "margin_upper_l2", 1.0, 1.0, 1.0) + three("mma", "margin_upper_l2", math.inf, 1.0, 1.0)
    row = claims(read(records)).iloc[0]
    assert row["difference"] == float("inf") and pd.isna(row["low"])
    assert row["verdict"] == "open"


def both(method: str, l2: tuple[float, ...], linf: tuple[float, ...]) -> list[Record]:
    pairs = enumerate(zip(l2, linf, strict=True))
    return [a_run(method, i, margin_upper_l2=first, margin_upper_linf=second) for i, (first, second) in pairs]


def test_an_infinite_difference_has_a_sign_and_that_of_two_infinite_margins_no_value() -> None:
    records = both("ce", (1.0, 1.0), (math.inf, 1.0)) + both("mma", (math.inf, 1.0), (math.inf, 2.0))
    assert "input margin: L2 +∞, infinite in both or not a number | open |" in render_claims(read(records))
    records = both("ce", (math.inf, 1.0), (math.inf, 1.0)) + both("mma", (1.0, 1.0), (1.0, math.inf))
    assert "input margin: L2 -∞, infinite in both or not a number | open |" in render_claims(read(records))


def test_a_claim_about_nan_is_open() -> None:
    records = both("ce", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) + both("mma", (2.0, 2.1, math.nan), (0.5, 0.5, 0.5))
    assert "input margin: infinite in both or not a number, L∞ -0.500 | open |" in render_claims(read(records))


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
    (row,) = claims(read(records)).to_dict("records")
    assert row["difference"] == pytest.approx(-0.1)
    assert render_claims(read(records)).count("| arcface |") == 1


def test_two_versions_of_a_suite_are_never_mixed() -> None:
    old = of_version(VERSIONS[:6], "2026-01-01", suite="e" * 64)
    records = VERSIONS[:3] + three("mma", "margin_upper_l2", 1.0, 1.0, 1.0) + old
    frame = claims(read(records))
    assert dict(zip(frame["suite_fingerprint"], frame["method"], strict=True)) == {"e" * 64: "arcface", "f" * 64: "mma"}
    assert render_claims(read(records)).count("## toy") == 2


def test_runs_on_different_data_are_no_pair() -> None:
    records = VERSIONS[:3] + of_version(VERSIONS[3:6], "2026-01-02", data="c" * 64)
    assert claims(read(records))["n"].tolist() == [0] and "feature margin: not measured | open |" in render_claims(
        read(records)
    )


def test_a_bar_in_a_name_opens_no_column() -> None:
    text = render_claims(read([claiming(a_record("ce"), "a|b", "c|d")]))
    assert r"| ce | a\|b | c\|d | — | — |" in text


def test_every_row_stands_in_the_table_with_its_paper() -> None:
    methods = ("ce", "arcface(m=0.3)", "arcface", "mma", "model")  # the last is nobody's method
    text = render_claims(
        read(
            r
            for i, m in enumerate(methods)
            for r in three(m, "feature_margin", *(0.1 * i + d for d in (0.1, 0.2, 0.3)))
        )
    )
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert list(lines)[2:] == ["ce", "mma", "arcface", "arcface(m=0.3)", "model"] and LEGEND in text
    assert "Deng" in lines["arcface"] and "feature margin: +0.200 | open" in lines["arcface"]
    assert "Deng" in lines["arcface(m=0.3)"] and "+0.100" in lines["arcface(m=0.3)"]
    assert lines["mma"].endswith("| input margin: not measured, not measured | open |")
    assert lines["model"].endswith("| — | — | — | — |")


def test_presets_stand_in_the_order_of_their_method_and_variants_after_it() -> None:
    rows = [("zeta", 1), ("alpha", 2), ("jac", 0), ("jac(a=2)", 0)]
    records = [
        claiming(a_record(row, identity={"method": "jac"}), "lipschitz", "-", place=place) for row, place in rows
    ]
    text = render_claims(read(records))
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
    assert claims(read([*records[:3], *gone]))["method"].tolist() == ["gone"]
    silent = [replace(record, about=replace(record.about, claims=())) for record in records]
    assert claims(read(silent)).empty


def test_an_unknown_claim_is_refused() -> None:
    cls = type(create("arcface"))
    info = cls.info.__class__(**{**cls.info.__dict__, "key": "mine", "claims": ("input_margn",)})
    mine = type("Mine", (cls,), {"__doc__": cls.__doc__, "info": info})
    with pytest.raises(MarginbenchError, match="did you mean 'input_margin'"):
        register(mine)
