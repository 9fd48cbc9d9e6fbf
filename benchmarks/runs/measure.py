"""A network is evaluated, and what came out is recorded. A failure is a record too."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.estimator import Certify
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.files import UnwritableError
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.metrics import enclosed, summarise
from marginbench.benchmarks.records.provenance import environment
from marginbench.benchmarks.records.record import About, Identity, Record, SuiteFacts, write_record
from marginbench.benchmarks.records.scores import SCORES, scores
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.runs.job import now, reason
from marginbench.benchmarks.runs.plan import Cell, about_of
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.suites.schema import WHICH, Suite
from marginbench.benchmarks.training.curve import accuracy, seen_split
from marginbench.methods import MarginbenchError, Net, Norm, NotApplicable
from marginbench.methods.hooks import in_words
from marginbench.methods.words import counted

NOT_OF_SENTENCES = (
    "Attacks and certificates in pixels are not applicable: tokens cannot be moved by a little. Radii, robust and"
    " certified accuracy are therefore not measured, which is another thing than 0."
)
Results = tuple[dict[str, Any], dict[str, np.ndarray]]  # fields of the record, per-point arrays


@dataclass(frozen=True)
class Entry:
    """What a record is of."""

    identity: Identity  # the record's id is its hash
    row: str  # name of its row in the tables
    about: About  # what the tables say of it
    tuning: Tuning | None = None


def entry_of(cell: Cell) -> Entry:
    return Entry(cell.identity, cell.row.name, about_of(cell.row), cell.row.tuning)


def record_run(run: Callable[[], Results], entry: Entry, suite: Suite, data: Dataset, folder: Path) -> Record:
    """Do a run and write its record: what it returns, or the error that it raises.

    Raises:
        UnwritableError: for the record, or within the run for a checkpoint.
    """
    error = None
    try:
        results, arrays = run()
    except UnwritableError:
        raise
    except Exception as failure:  # a method may raise anything; the others must go on
        results, arrays = {}, {}
        error = reason(failure)
    settings = suite.model_dump(mode="json", exclude=WHICH)
    record = Record(
        id=entry.identity.id,
        identity=entry.identity,
        method=entry.row,
        about=entry.about,
        tuning=entry.tuning,
        repetition=entry.identity.repetition,
        status="done" if error is None else "failed",
        error=error,
        columns=_columns(suite.evaluation, data),
        notes=_notes(suite.evaluation, data),
        suite=SuiteFacts.of(settings),
        environment=environment(data.train.device),
        finished=now(),
        **results,
    )
    write_record(folder, record, arrays)
    return record


def measure(
    net: Net,
    certify: Certify,
    data: Dataset,
    suite: Suite,
    key: str,
    repetition: int,
    deadline: Deadline | None = None,
    partial: Partial | None = None,
) -> Results:
    """Evaluate a network: metrics, seconds, estimators and doubts for the record, and the per-point arrays.

    Args:
        certify: the network's own certificate.
        key: seeds the attacks, together with the suite's `stream_name` and the repetition.
        deadline: what training and evaluation may take.
        partial: see `evaluate`.
    """
    start, settings = time.perf_counter(), suite.evaluation
    choosing = suite.data.evaluate is not None  # a network among many, of which few will enter a table
    evaluated = evaluate(
        net,
        _certify_nothing if choosing and not settings.certificates else certify,
        data,
        settings,
        *(suite.stream_name, key, repetition),
        deadline=deadline,
        partial=partial,
        examine=not choosing,
    )
    results = {
        "metrics": derived_metrics(
            evaluated.arrays,
            suite.evaluation,
            {**_generalisation(net, data), **scores(_judged_by(data), evaluated.arrays)},
        ),
        "cost": {"evaluation_seconds": time.perf_counter() - start + evaluated.recalled},
        "estimators": evaluated.estimators,
        "doubts": evaluated.doubts,
        "explanations": evaluated.explanations,
    }
    return results, evaluated.arrays


def _certify_nothing(net: Net, x: Tensor, norm: Norm) -> NotApplicable:
    return NotApplicable("no certificate was asked for")


def derived_metrics(
    arrays: Mapping[str, np.ndarray], evaluation: Evaluation, more: Mapping[str, float]
) -> dict[str, float]:
    """What follows from per-point arrays, those of probes included, and `more`, whose names are taken too.

    Raises:
        MarginbenchError: a probe's name for a metric is taken, its value is no number, or a column has none.
    """
    metrics = {**summarise(arrays, evaluation.epsilon), **more}
    sentences = not enclosed(arrays)
    for name, probe in evaluation.probes.items():
        if probe.reads_sentences != sentences:
            continue
        found = probe.metrics(arrays, evaluation.epsilon)
        given = ", ".join(found) if isinstance(found, Mapping) else in_words(found)
        found = found if isinstance(found, Mapping) else {}
        measured = {metric: _number(value, f"probe {name!r}: the metric {metric!r}") for metric, value in found.items()}
        if taken := measured.keys() & metrics.keys():
            raise MarginbenchError(f"probe {name!r}: the metric name {min(taken)!r} is taken: choose another")
        for column in probe.columns:
            if column.name not in measured:
                raise MarginbenchError(f"probe {name!r}: metrics() gives {given}, and not {column.name}, its column")
        metrics |= measured
    return metrics


def _number(value: Any, what: str) -> float:
    """A number of Python; those of NumPy and torch, which no record holds, become one."""
    item = value.item() if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0 else value
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise MarginbenchError(f"{what} is {in_words(value)}: it must be a number; NaN where there is none")
    return float(item)


def _generalisation(net: Net, data: Dataset) -> dict[str, float]:
    """Accuracy on as many training images as there are validation images, on these, and the gap between the two."""
    seen, unseen = (accuracy(logits_of(net, split), split) for split in (seen_split(data), data.validation))
    return {"train_accuracy": seen, "validation_accuracy": unseen, "generalisation_gap": seen - unseen}


def _judged_by(data: Dataset) -> tuple[str, ...]:
    return () if data.text is None else data.text.metrics


def _columns(evaluation: Evaluation, data: Dataset) -> list[Column]:
    """Those that not all tables have."""
    of_data = [SCORES[name] for name in _judged_by(data)]
    return [*of_data, *(column for probe in evaluation.probes.values() for column in probe.columns)]


def _notes(evaluation: Evaluation, data: Dataset) -> list[str]:
    """Sentences below a table: what its reader must know of the points and of the probes."""
    asked, there = evaluation.points, len(data.test)
    few = f"The test split has {counted(there, 'image')}: all were measured, although {asked} points were asked for."
    notes = [note for probe in evaluation.probes.values() if (note := probe.note(evaluation.epsilon))]
    if data.text is not None:
        return [NOT_OF_SENTENCES, *notes]
    return [few] * (there < asked) + notes
