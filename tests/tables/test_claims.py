"""The table of claims: differences by hand, verdicts, and every method in it."""

import pandas as pd
import pytest

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.claims import LEGEND, claims, render_claims
from marginbench.methods import MarginbenchError, create, register


def a_record(method: str, repetition: int, **metrics: float | None) -> Record:
    return Record(
        schema_version=1,
        id=f"{method}{repetition}",
        identity={"suite": "abc", "method": method, "revision": 1, "source": None},
        method=method,
        repetition=repetition,
        status="done",
        metrics=metrics,
        suite={"name": "digits"},
        environment={},
        finished="2026-01-01",
    )


def three(method: str, column: str, *values: float | None) -> list[Record]:
    return [a_record(method, repetition, **{column: value}) for repetition, value in enumerate(values)]


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
        return [a_record(method, i, margin_upper_l2=a, margin_upper_linf=b) for i, (a, b) in pairs]

    frame = claims(runs("ce", (1.0,) * 3, (1.0,) * 3) + runs("mma", l2, linf))
    assert set(frame["verdict"]) == {verdict} and list(frame["column"]) == ["margin_upper_l2", "margin_upper_linf"]


def test_a_margin_without_adversarial_example_is_no_number() -> None:
    records = three("ce", "margin_upper_l2", 1.0, 1.0, 1.0) + three("mma", "margin_upper_l2", None, 1.0, 1.0)
    row = claims(records).iloc[0]
    assert row["difference"] == float("inf") and pd.isna(row["half"])
    assert row["verdict"] == "open"


def test_every_row_stands_in_the_table_with_its_paper() -> None:
    methods = ("ce", "arcface(m=0.3)", "arcface", "mma", "gone")  # the last was a plug-in
    text = render_claims(
        [r for i, m in enumerate(methods) for r in three(m, "feature_margin", *(0.1 * i + d for d in (0.1, 0.2, 0.3)))]
    )
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert list(lines)[2:] == ["ce", "mma", "arcface", "arcface(m=0.3)", "gone"] and LEGEND in text
    assert "Deng" in lines["arcface"] and "feature margin: +0.200 ± 0.000 | yes" in lines["arcface"]
    assert "Deng" in lines["arcface(m=0.3)"] and "+0.100" in lines["arcface(m=0.3)"]
    assert lines["mma"].endswith("| input margin: not measured, not measured | open |")
    assert lines["gone"].endswith("| - | - | - | - |")


def test_an_unknown_claim_is_refused() -> None:
    cls = type(create("arcface"))
    info = cls.info.__class__(**{**cls.info.__dict__, "key": "mine", "claims": ("input_margn",)})
    mine = type("Mine", (cls,), {"__doc__": cls.__doc__, "info": info})
    with pytest.raises(MarginbenchError, match="did you mean 'input_margin'"):
        register(mine)
