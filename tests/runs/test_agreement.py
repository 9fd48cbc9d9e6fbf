"""The rule by which a run that was done again agrees with its record."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from made import ENVIRONMENT, a_failure, a_record

from marginbench.benchmarks.records.differences import Difference
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs.agreement import Spread, Verdict, contradiction, judge, same_bits, spread_around

ARRAYS = {"index": np.arange(4), "label": np.arange(4), "upper_l2": np.array([0.5, np.nan, 0.0], np.float32)}
THREADS = [Difference("threads", "1", "2")]


def metrics(robust: float, **more: float) -> dict[str, float]:
    return {"points": 100.0, "robust_accuracy_l2": robust, **more}


RECORD = a_record("ce", metrics=metrics(0.50), losses=[2.0, 1.0])
SPREAD = Spread({"robust_accuracy_l2": 0.01}, {"robust_accuracy_l2": 0.02})


def ask(
    again: Mapping[str, float] | None = None,
    upper: float = 0.6,
    unlike: list[Difference] = THREADS,
    spread: Spread = SPREAD,
    losses: tuple[float, ...] = (2.0, 1.0),
) -> Verdict:
    anew = {**ARRAYS, "upper_l2": np.array([upper, np.nan, 0.0], np.float32)}
    record = a_record("ce", metrics=dict(again or metrics(0.5)), losses=list(losses))
    return judge(RECORD, ARRAYS, record, anew, spread, unlike)


@pytest.mark.parametrize("unlike", [[], THREADS])
def test_equal_bits_agree_wherever_they_were_found(unlike: list[Difference]) -> None:
    assert ask(upper=0.5, unlike=unlike) == Verdict("same bits")


def test_bits_are_bits() -> None:
    zero = np.zeros(1)
    assert same_bits(np.array([np.nan]), np.array([np.nan])) and not same_bits(zero, -zero)
    assert not same_bits(zero, zero.astype(np.float32)) and not same_bits(zero, zero[None])
    assert not same_bits(np.ones(1), np.nextafter(np.ones(1), 2))


def test_where_nothing_differs_the_bits_must_be_the_same() -> None:
    last_bit = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert ask(upper=last_bit).answer == "a seed's spread"
    verdict = ask(upper=last_bit, unlike=[])
    assert verdict == Verdict("no", "1 of 3 arrays differ, although the environments do not")
    assert ask(upper=0.5, losses=(2.0, 1.5), unlike=[]).why == "the losses differ, although the environments do not"


def test_what_differs_by_rounding_alone_is_not_named() -> None:
    verdict = ask(metrics(0.5 + 1e-8), upper=0.7)
    assert verdict == Verdict("a seed's spread", "1 of 3 arrays differ; no metric differs")


def test_on_a_gpu_bits_are_not_asked_for() -> None:
    gpu = a_record("ce", metrics=metrics(0.5), losses=[2.0], environment=replace(ENVIRONMENT, device="NVIDIA H100"))
    assert (
        judge(gpu, ARRAYS, gpu, {**ARRAYS, "upper_l2": ARRAYS["upper_l2"] + 1}, SPREAD, []).answer == "a seed's spread"
    )


@pytest.mark.parametrize(("robust", "answer"), [(0.579, "a seed's spread"), (0.421, "a seed's spread"), (0.581, "no")])
def test_elsewhere_a_metric_may_differ_by_four_deviations(robust: float, answer: str) -> None:
    """The larger one of 0.01, of the row, and 0.02, of the others."""
    verdict = ask(metrics(robust))
    assert verdict.answer == answer and f"robust_accuracy_l2 0.5 -> {robust}, 0.08 allowed" in verdict.why


def test_the_metric_that_is_furthest_off_is_named() -> None:
    record = a_record("ce", metrics=metrics(0.5, clean_accuracy=0.9), losses=[2.0])
    again = a_record("ce", metrics=metrics(0.51, clean_accuracy=0.5), losses=[2.5])
    spread = Spread({"robust_accuracy_l2": 0.01, "clean_accuracy": 0.01}, {})
    verdict = judge(record, ARRAYS, again, ARRAYS, spread, THREADS)
    assert verdict.answer == "no" and "clean_accuracy 0.9 -> 0.5" in verdict.why


def test_one_point_may_change_where_seeds_do_not_differ() -> None:
    spread = Spread({"robust_accuracy_l2": 0.0}, {})
    assert ask(metrics(0.509), spread=spread).answer == "a seed's spread"
    assert ask(metrics(0.52), spread=spread).answer == "no"


def test_without_a_second_seed_there_is_no_spread() -> None:
    verdict = ask(metrics(0.51), spread=Spread({}, {}))
    assert verdict.answer == "no" and "no row has two other seeds" in verdict.why


def test_infinite_means_are_left_to_the_share_of_points_not_attacked() -> None:
    record = a_record("ce", metrics=metrics(0.5, margin_upper_l2=math.inf, clever_l2=math.nan), losses=[2.0])
    finite = a_record("ce", metrics=metrics(0.5, margin_upper_l2=0.3, clever_l2=math.nan), losses=[1.0])
    number = a_record("ce", metrics=metrics(0.5, margin_upper_l2=0.3, clever_l2=0.1), losses=[1.0])
    assert judge(record, ARRAYS, finite, ARRAYS, SPREAD, THREADS).answer == "a seed's spread"
    verdict = judge(record, ARRAYS, number, ARRAYS, SPREAD, THREADS)
    assert verdict.answer == "no" and "clever_l2 is nan in the record, 0.1 here" in verdict.why


def test_other_arrays_or_points_or_a_failure_never_agree() -> None:
    fewer = {name: array for name, array in ARRAYS.items() if name != "upper_l2"}
    assert (
        judge(RECORD, ARRAYS, RECORD, fewer, SPREAD, THREADS).why == "not the same arrays: upper_l2 in the record alone"
    )
    elsewhere = {**ARRAYS, "index": np.arange(1, 5)}
    assert "other points were measured: index" in judge(RECORD, ARRAYS, RECORD, elsewhere, SPREAD, THREADS).why
    failed = judge(RECORD, ARRAYS, a_failure("ce"), {}, SPREAD, THREADS)
    assert failed == Verdict("no", "fails here: RuntimeError: no | luck")


def rows(**values: tuple[float, ...]) -> list[Record]:
    return [
        a_record(method, seed, metrics=metrics(value, margin_upper_l2=math.inf))
        for method, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def test_the_spread_is_that_of_the_row_and_of_the_others() -> None:
    records = rows(ce=(0.9, 0.4, 0.6), svm=(0.5, 0.5), mma=(0.1, 0.3), arcface=(0.9,))
    found = spread_around(records[0], records)
    assert found.own == {"points": 0.0, "robust_accuracy_l2": pytest.approx(0.2 / math.sqrt(2))}
    assert found.pooled == {"points": 0.0, "robust_accuracy_l2": pytest.approx(0.1)}
    assert spread_around(records[-1], records).own == {}


def test_a_record_cannot_hide_in_its_own_spread() -> None:
    """Among n values, one that is off by d makes a standard deviation of at least d / sqrt(n)."""
    records = rows(ce=(9.0, 0.4, 0.6), svm=(0.5, 0.5))
    again = a_record("ce", metrics=metrics(0.5, margin_upper_l2=math.inf), losses=[1.0])
    verdict = judge(records[0], ARRAYS, again, ARRAYS, spread_around(records[0], records), THREADS)
    assert verdict.answer == "no" and "robust_accuracy_l2 9 -> 0.5, 0.57 allowed" in verdict.why


def test_metrics_follow_from_the_arrays() -> None:
    said = a_record("ce", metrics=metrics(0.5))
    assert contradiction(said, {"robust_accuracy_l2": 0.5 + 1e-7}) is None
    wrong = contradiction(said, {"robust_accuracy_l2": 0.49})
    assert wrong == "robust_accuracy_l2 is 0.5 in the record, but 0.49 by its arrays"
    assert "margin_upper_l2 is None in the record" in str(contradiction(said, {"margin_upper_l2": 0.1}))
    infinite = a_record("ce", metrics=metrics(math.inf))
    assert contradiction(infinite, {"robust_accuracy_l2": math.inf}) is None
