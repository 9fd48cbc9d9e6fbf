"""One cell: train, evaluate, record. A failure is a record too."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.estimator import Certify
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.budget import limited
from marginbench.benchmarks.machine.deadline import Deadline, DeadlineError
from marginbench.benchmarks.machine.device import threads_of
from marginbench.benchmarks.machine.files import UnwritableError
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.provenance import environment
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.records.record import About, Identity, Record, SuiteFacts, write_record
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.runs.plan import Cell, about_of
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.loop import DivergedError, train
from marginbench.methods import MarginbenchError, Net, predicted_class, spec_of
from marginbench.methods.blame import blamed, fault
from marginbench.methods.errors import one_line

Results = tuple[dict[str, Any], dict[str, np.ndarray]]  # fields of the record, per-point arrays


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Job:
    """What a process must know to do the runs of a plan. It travels to every worker."""

    options: RunOptions
    suite: Suite  # with the settings of the options
    runs: Path  # folder of the records
    memory: int | None = None  # bytes that the process of a run plans with; default: what is available
    threads: int | None = None  # of torch, during a run; default: what the process has
    began: str = field(default_factory=_now)  # UTC; what others finished later is not repeated

    def repeats(self, record: Record) -> bool:
        redo = self.options.redo
        chosen = redo == "everything" or (redo == "failed" and record.status == "failed")
        return chosen and record.finished <= self.began


def execute(cell: Cell, job: Job, data: Dataset, tell: Callable[[str], None] | None = None) -> Record | None:
    """Train and evaluate one cell and write its record, whatever happens to the method.

    Args:
        tell: see `Deadline`.

    Returns:
        The record, possibly another process's; None while another process holds the run.
    """
    path = job.runs / f"{cell.id}.json"
    with lock(job.runs, cell.id, spec_of(cell.method), cell.repetition) as got:
        if not got:
            return None
        if (record := finished(path, job)) is not None:
            return record
        checkpoint = Checkpoint(job.runs / f"{cell.id}.ckpt", job.options.checkpoint_every)
        deadline = Deadline(job.options.deadline, tell)
        partial = Partial(job.runs / f"{cell.id}.partial")
        with limited(job.memory), threads_of(job.threads):
            record = record_run(
                lambda: _run(cell, job, data, checkpoint, deadline, partial), entry_of(cell), job.suite, data, job.runs
            )
        if not deadline.stopped:  # with more time such a run resumes; one that failed otherwise starts again
            checkpoint.remove()
        if record.status == "done":
            partial.remove()
        return record


def give_up(cell: Cell, job: Job, data: Dataset, reason: DeadlineError) -> Record | None:
    """Write the record of a run that was stopped from outside. Its checkpoint stays.

    Returns:
        as `execute`: the record that it had just written itself, if it had.
    """

    def stopped() -> Results:
        raise reason

    with lock(job.runs, cell.id, spec_of(cell.method), cell.repetition) as got:
        if not got:
            return None
        record = finished(job.runs / f"{cell.id}.json", job)
        return record or record_run(stopped, entry_of(cell), job.suite, data, job.runs)


def finished(path: Path, job: Job) -> Record | None:
    """The record in a file, if there is one and its run is not to be done again.

    Raises:
        MarginbenchError: it cannot be read. It counts as that of a failed run, which is not repeated unasked.
    """
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except MarginbenchError:
        if job.options.redo == "nothing":
            raise
        return None
    return None if job.repeats(record) else record


@dataclass(frozen=True)
class Entry:
    """What a record is of."""

    identity: Identity  # the record's id is its hash
    row: str  # name of its row in the tables
    about: About  # what the tables say of it


def entry_of(cell: Cell) -> Entry:
    return Entry(cell.identity, spec_of(cell.method), about_of(cell.method))


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
        error = _reason(failure)
    settings = suite.model_dump(mode="json", exclude={"methods", "seeds"})
    record = Record(
        id=entry.identity.id,
        identity=entry.identity,
        method=entry.row,
        about=entry.about,
        repetition=entry.identity.repetition,
        status="done" if error is None else "failed",
        error=error,
        columns=[column for probe in suite.evaluation.probes.values() for column in probe.columns],
        notes=_notes(suite.evaluation, data),
        suite=SuiteFacts.of(settings),
        environment=environment(data.train.device),
        finished=_now(),
        **results,
    )
    write_record(folder, record, arrays)
    return record


def _run(cell: Cell, job: Job, data: Dataset, checkpoint: Checkpoint, deadline: Deadline, partial: Partial) -> Results:
    trained = train(cell.method, job.suite, data, cell.repetition, checkpoint, deadline, job.options.eager)
    names = (cell.method.info.key, cell.repetition)
    results, arrays = measure(trained.net, cell.method.certify, data, job.suite, *names, deadline, partial)
    cost = {
        "seconds": trained.seconds,
        "steps": trained.steps,
        "forward": trained.forward,
        "backward": trained.backward,
        "replayed": trained.replayed,
        "peak_bytes": trained.peak_bytes,
        **results["cost"],
    }
    return {**results, "cost": cost, "losses": trained.losses, "parts": trained.parts}, arrays


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
    start = time.perf_counter()
    evaluated = evaluate(
        net, certify, data, suite.evaluation, suite.stream_name, key, repetition, deadline=deadline, partial=partial
    )
    agree = predicted_class(logits_of(net, data.validation)) == data.validation.y
    validation = {"validation_accuracy": float(agree.float().mean())}
    results = {
        "metrics": derived_metrics(evaluated.arrays, suite.evaluation, validation),
        "cost": {"evaluation_seconds": time.perf_counter() - start + evaluated.recalled},
        "estimators": evaluated.estimators,
        "doubts": evaluated.doubts,
        "explanations": evaluated.explanations,
    }
    return results, evaluated.arrays


def derived_metrics(
    arrays: Mapping[str, np.ndarray], evaluation: Evaluation, more: Mapping[str, float]
) -> dict[str, float]:
    """What follows from per-point arrays, those of probes included, and `more`, whose names are taken too.

    Raises:
        MarginbenchError: a probe's name for a metric is taken.
    """
    metrics = {**summarise(arrays, evaluation.epsilon), **more}
    for name, probe in evaluation.probes.items():
        measured = probe.metrics(arrays, evaluation.epsilon)
        if taken := measured.keys() & metrics.keys():
            raise MarginbenchError(f"probe {name!r}: the metric name {min(taken)!r} is taken: choose another")
        metrics |= measured
    return metrics


def _notes(evaluation: Evaluation, data: Dataset) -> list[str]:
    """Sentences below a table: what its reader must know of the points and of the probes."""
    asked, there = evaluation.points, len(data.test)
    few = f"The test split has {there} images: all were measured, although {asked} points were asked for."
    return [few] * (there < asked) + [
        note for probe in evaluation.probes.values() if (note := probe.note(evaluation.epsilon))
    ]


def _reason(failure: Exception) -> str:
    """One line: what was raised, and where."""
    if isinstance(failure, DivergedError | DeadlineError):
        return f"{type(failure).__name__.removesuffix('Error').lower()}: {failure}"
    if blamed(failure) is not None:
        return fault(failure)
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if "site-packages" not in f.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{one_line(failure)}{where}"
