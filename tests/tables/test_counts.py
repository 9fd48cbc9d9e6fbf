"""Shares that float32 has rounded are counts again, so that what is equal is tied."""

import math

import numpy as np
import pytest
from made import EPSILON, a_record

from marginbench.benchmarks.records.record import Record, SuiteFacts
from marginbench.benchmarks.tables.counts import exact, exact_metrics
from marginbench.benchmarks.tables.derived import measured_by
from marginbench.benchmarks.tables.leaderboard import rank

IMAGES = 200


def a_gap(method: str, seen: int, unseen: int, data: object = None) -> Record:
    """A record with accuracies in float32, as they were written."""
    train, validation = (float(np.float32(count / IMAGES)) for count in (seen, unseen))
    metrics = {"train_accuracy": train, "validation_accuracy": validation, "generalisation_gap": train - validation}
    settings = {"name": "toy", "title": "toy", "data": data or {"validation": IMAGES}}
    suite = SuiteFacts.of({**settings, "evaluation": {"epsilon": EPSILON}})
    return a_record(method, metrics={"points": 360.0, **metrics}, suite=suite)


def test_equal_gaps_are_equal() -> None:
    records = [a_gap(f"m{count}", count, count - 2) for count in range(2, IMAGES + 1)]
    assert len({record.metrics["generalisation_gap"] for record in records}) > 1, "the test needs such records"
    for metrics in (*measured_by(records).values(), *map(exact_metrics, records)):
        assert metrics["generalisation_gap"] == 2 / IMAGES
    for count, record in enumerate(records, 2):
        own = exact_metrics(record)
        assert (own["train_accuracy"], own["validation_accuracy"]) == (count / IMAGES, (count - 2) / IMAGES)
    assert [row.facts["method"] for row in rank(records, "generalisation_gap")] == sorted(r.method for r in records)


def test_a_gap_may_be_negative() -> None:
    assert exact_metrics(a_gap("ce", 7, 30))["generalisation_gap"] == -23 / IMAGES


@pytest.mark.parametrize("data", ["digits", {"name": "digits"}])
def test_shares_of_unknown_numbers_stay_as_they_are(data: object) -> None:
    record = a_gap("ce", 7, 3, data)
    assert exact_metrics(record) == record.metrics


def test_what_is_no_whole_count_stays_as_it_is() -> None:
    """As an accuracy on fewer training images than are held out."""
    for share in (1 / 199, 0.5001, math.nan, math.inf):
        assert repr(exact(share, IMAGES)) == repr(share)
    assert exact(0.3, 0) == 0.3


def test_equal_numbers_of_unknown_images_are_equal() -> None:
    records = [
        a_record(
            f"m{count}",
            metrics={
                "points": 360.0,
                "robust_accuracy_l2": count / 360,
                "certified_accuracy_l2": (count - 104) / 360,
            },
        )
        for count in range(104, 361)
    ]
    assert {metrics["unknown_l2"] for metrics in measured_by(records).values()} == {104 / 360}
