"""Records made by hand: what a run would have left, with numbers that are known."""

from dataclasses import replace
from typing import Any

from marginbench.benchmarks.records.record import About, Environment, Identity, Record, SuiteFacts
from marginbench.benchmarks.tables.standing import Standing

EPSILON: dict[Any, float] = {"l2": 0.5, "linf": 0.1}
ENVIRONMENT = Environment("h", "cpu", "p", 2, 1, "Linux", "3.11", {"torch": "2"}, "c0ffee")


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
