"""One cell: train, evaluate, record. A failure is a record too."""

import math
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.data import Dataset
from marginbench.benchmarks.environment import environment
from marginbench.benchmarks.margins import evaluate
from marginbench.benchmarks.metrics import summarise
from marginbench.benchmarks.plan import Cell
from marginbench.benchmarks.store import SCHEMA, Record, write_record
from marginbench.benchmarks.suite import Suite
from marginbench.benchmarks.train import DivergedError, train
from marginbench.methods import spec_of


def execute(cell: Cell, suite: Suite, data: Dataset, folder: Path) -> Record:
    """Train and evaluate one cell and write its record, whatever happens to the method."""
    try:
        results, arrays = _run(cell, suite, data)
        status, error = "done", None
    except Exception as failure:  # a method may raise anything; the others must go on
        results, arrays = {}, {}
        status, error = "failed", _reason(failure)
    record = Record(
        schema_version=SCHEMA,
        id=cell.id,
        identity=cell.identity,
        method=spec_of(cell.method),
        repetition=cell.repetition,
        status=status,
        error=error,
        suite=suite.model_dump(mode="json", exclude={"methods", "seeds"}),
        environment=environment(data.train.x.device),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **results,
    )
    write_record(folder, record, arrays)
    return record


def _run(cell: Cell, suite: Suite, data: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    trained = train(cell.method, suite, data, cell.repetition)
    start = time.perf_counter()
    names = (suite.name, cell.method.info.key, cell.repetition)
    evaluated = evaluate(trained.net, cell.method.certify, data, suite.evaluation, *names)
    with torch.no_grad():
        held_out = data.validation
        agree = trained.net(held_out.images(slice(None))).argmax(1) == held_out.y
    metrics = summarise(evaluated.arrays, suite.evaluation.epsilon)
    metrics["validation_accuracy"] = float(agree.float().mean())
    cost = {
        "seconds": trained.seconds,
        "steps": trained.steps,
        "forward": trained.forward,
        "backward": trained.backward,
        "peak_bytes": trained.peak_bytes,
        "evaluation_seconds": time.perf_counter() - start,
    }
    results = {
        "metrics": _finite_or_none(metrics),
        "cost": cost,
        "losses": trained.losses,
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
