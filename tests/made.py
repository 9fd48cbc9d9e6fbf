"""Records made by hand: what a run would have left, with numbers that are known."""

from dataclasses import replace
from typing import Any

from marginbench.benchmarks.records.record import About, Environment, Identity, Record, SuiteFacts
from marginbench.benchmarks.records.tuning import Trial, Tuning
from marginbench.benchmarks.tables.standing import Standing

EPSILON: dict[Any, float] = {"l2": 0.5, "linf": 0.1}
ENVIRONMENT = Environment("h", "cpu", "p", 2, 1, "Linux", "3.11", {"torch": "2"}, "c0ffee")

# accuracies of three seeds: 1,063 of 1,080 images in both, but added in floats the mean of the first is the smaller one
LEVEL = [[count / 360 for count in counts] for counts in ((349, 354, 360), (345, 358, 360))]


def a_suite(name: str = "toy", title: str = "toy_suite 100%") -> SuiteFacts:
    return SuiteFacts.of({"name": name, "title": title, "evaluation": {"epsilon": EPSILON}})


def an_identity(row: str, repetition: int, **changes: Any) -> Identity:
    values: dict[str, Any] = {
        "suite": "f" * 64,
        "data": "d" * 64,
        "method": row.partition("(")[0],
        "fields": {"spec": row},
        "revision": 1,
        "source": None,
        "repetition": repetition,
    }
    return Identity(**{**values, **changes})


def a_record(
    method: str, repetition: int = 0, clean: float = 0.9, identity: dict[str, Any] | None = None, **changes: Any
) -> Record:
    """A run that ended well, with a clean and a robust accuracy of `clean`."""
    of = an_identity(method, repetition, **(identity or {}))
    values: dict[str, Any] = {
        "id": of.id,
        "identity": of,
        "method": method,
        "repetition": repetition,
        "status": "done",
        "metrics": {"points": 10.0, "clean_accuracy": clean, "robust_accuracy_l2": clean},
        "cost": {"seconds": 2.0 if method == "ce" else 5.0},
        "suite": a_suite(),
        "environment": ENVIRONMENT,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**values, **changes})


def a_tuning(row: str, chosen: int = 2, robust: bool = False, **changes: Any) -> Tuning:
    """Four trials, the third of which is the best and the last of which failed."""
    accuracies = ((0.8, 0.2), (0.7, 0.5), (0.9, 0.4))
    history = [
        Trial(
            number=number,
            method=f"{row}(x={number})" if number else row,
            status="done",
            value=clean,
            clean_accuracy=clean,
            robust_accuracy=attacked if robust else None,
            seconds=30.0,
            passes=1000.0,
            finished="2026-01-01T00:00:00+00:00",
        )
        for number, (clean, attacked) in enumerate(accuracies)
    ]
    failed = {"status": "failed", "value": None, "clean_accuracy": None, "robust_accuracy": None, "error": "diverged"}
    history.append(replace(history[1], number=3, method=f"{row}(x=3)", **failed))  # type: ignore[arg-type]
    values: dict[str, Any] = {
        "row": row,
        "method": history[chosen].method,
        "chosen": chosen,
        "suite": "toy",
        "trained_by": "r" * 64,
        "data": "d" * 64,
        "revision": 1,
        "objective": "pareto" if robust else "validation_accuracy",
        "rule": "the best",
        "norm": "linf" if robust else None,
        "floor": 0.75 if robust else None,
        "sampler": "random",
        "seed": 0,
        "repetition": 10_000,
        "trials": 4,
        "distinct": 4,
        "failed": 1,
        "seconds": 120.0,
        "passes": 4000.0,
        "date": "2026-01-01T00:00:00+00:00",
        "importance": {"x": 0.9, "training.learning_rate": 0.1},
        "history": history,
    }
    return Tuning(**{**values, **changes})


def a_failure(method: str, repetition: int = 0, **changes: Any) -> Record:
    record = a_record(method, repetition, **changes)
    return replace(record, status="failed", error="RuntimeError: no | luck", metrics={}, cost={})


def claiming(record: Record, family: str, paper: str, *claims: Any, place: int = 0) -> Record:
    return replace(record, about=About(record.method, family, paper, claims, place))


def standing(place: int, letters: str, group: int, **changes: Any) -> Standing:
    """Where a row stands in a column whose mean is 0.9, with an interval of half a point."""
    values: dict[str, Any] = {
        "mean": 0.9,
        "low": 0.895,
        "high": 0.905,
        "n": 3,
        "difference": 0.02,
        "difference_low": 0.01,
        "difference_high": 0.03,
        "p": 0.001,
        "best_rank": place,
        "worst_rank": place + 1,
        "letters": letters,
        "group": group,
    }
    return Standing(**{**values, **changes})
