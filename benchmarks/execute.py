"""One cell: train, evaluate, record. A failure is a record too."""

import math
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from marginbench.benchmarks.certificates import Certify
from marginbench.benchmarks.data import Dataset
from marginbench.benchmarks.environment import environment
from marginbench.benchmarks.margins import evaluate
from marginbench.benchmarks.memory import logits_of
from marginbench.benchmarks.metrics import summarise
from marginbench.benchmarks.plan import Cell
from marginbench.benchmarks.seeds import digest
from marginbench.benchmarks.store import SCHEMA, Record, write_record
from marginbench.benchmarks.suite import Suite
from marginbench.benchmarks.train import DivergedError, train
from marginbench.methods import Net, spec_of

Results = tuple[dict[str, Any], dict[str, np.ndarray]]  # fields of the record, per-point arrays


def execute(cell: Cell, suite: Suite, data: Dataset, folder: Path) -> Record:
    """Train and evaluate one cell and write its record, whatever happens to the method."""
    about = (cell.identity, spec_of(cell.method), cell.repetition)
    return record_run(lambda: _run(cell, suite, data), *about, suite, data, folder)


def record_run(
    run: Callable[[], Results],
    identity: dict[str, Any],
    row: str,
    repetition: int,
    suite: Suite,
    data: Dataset,
    folder: Path,
) -> Record:
    """Do a run and write its record: what it returns, or the error that it raises.

    Args:
        identity: what the record's id is the hash of.
        row: the name of its row in the tables.
    """
    try:
        results, arrays = run()
        status, error = "done", None
    except Exception as failure:  # a method may raise anything; the others must go on
        results, arrays = {}, {}
        status, error = "failed", _reason(failure)
    record = Record(
        schema_version=SCHEMA,
        id=digest(identity),
        identity=identity,
        method=row,
        repetition=repetition,
        status=status,
        error=error,
        suite=suite.model_dump(mode="json", exclude={"methods", "seeds"}),
        environment=environment(data.train.device),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **results,
    )
    write_record(folder, record, arrays)
    return record


def _run(cell: Cell, suite: Suite, data: Dataset) -> Results:
    trained = train(cell.method, suite, data, cell.repetition)
    results, arrays = measure(trained.net, cell.method.certify, data, suite, cell.method.info.key, cell.repetition)
    cost = {
        "seconds": trained.seconds,
        "steps": trained.steps,
        "forward": trained.forward,
        "backward": trained.backward,
        "peak_bytes": trained.peak_bytes,
        **results["cost"],
    }
    return {**results, "cost": cost, "losses": trained.losses}, arrays


def measure(net: Net, certify: Certify, data: Dataset, suite: Suite, key: str, repetition: int) -> Results:
    """Evaluate a network: metrics, seconds, estimators and doubts for the record, and the per-point arrays.

    Args:
        certify: the network's own certificate.
        key: seeds the attacks, together with the suite's name and the repetition.
    """
    start = time.perf_counter()
    evaluated = evaluate(net, certify, data, suite.evaluation, suite.name, key, repetition)
    agree = logits_of(net, data.validation).argmax(1) == data.validation.y
    metrics = summarise(evaluated.arrays, suite.evaluation.epsilon)
    metrics["validation_accuracy"] = float(agree.float().mean())
    results = {
        "metrics": _finite_or_none(metrics),
        "cost": {"evaluation_seconds": time.perf_counter() - start},
        "estimators": evaluated.estimators,
        "doubts": evaluated.doubts,
    }
    return results, evaluated.arrays


def _finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _reason(failure: Exception) -> str:
    """One line: what was raised, and where."""
    text = (str(failure).splitlines() or [""])[0]
    if isinstance(failure, DivergedError):
        return f"diverged: {text}"
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if "site-packages" not in f.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(failure).__name__}: {text}{where}"
