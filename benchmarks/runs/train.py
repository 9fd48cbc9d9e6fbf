"""The first stage of a cell: train, and keep the network. A failure is a record too."""

import logging
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.extras import TENSORBOARD
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.files import UnwritableError
from marginbench.benchmarks.records.provenance import environment
from marginbench.benchmarks.records.training import Training, network_path, write_training
from marginbench.benchmarks.runs.job import Job, ended, now, reason
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.kept import pack
from marginbench.benchmarks.training.loop import How, Trained, train
from marginbench.benchmarks.training.sink import Sink, TensorBoard
from marginbench.methods import spec_of

log = logging.getLogger(__name__)


def trained(cell: Cell, job: Job, data: Dataset, deadline: Deadline) -> Training | None:
    """The training of a cell, done now unless it has been.

    Returns:
        None while another process holds it, or where it is not to be done by this job.

    Raises:
        UnwritableError: the folder of the networks cannot be written.
    """
    if (known := ended(cell.training.id, job)) is not None:
        return known
    if job.options.only == "evaluate":
        return None
    job.networks.mkdir(parents=True, exist_ok=True)
    with lock(job.networks, cell.training.id, cell.row.name, cell.repetition) as got:
        if not got:
            return None
        # another process may have just ended it
        return ended(cell.training.id, job) or _train(cell, job, data, deadline)


def failed(cell: Cell, job: Job, data: Dataset, why: Exception) -> Training | None:
    """Write the record of a training that was stopped from outside; its checkpoint stays.

    Returns:
        The record that it had just written itself, if it had; None while another process holds it.
    """
    with lock(job.networks, cell.training.id, cell.row.name, cell.repetition) as got:
        if not got:
            return None
        return ended(cell.training.id, job) or write_training(job.networks, _training(cell, job, data, reason(why), {}))


def discard(job: Job, training: Training) -> None:
    """Remove the network; the record says so."""
    network_path(job.networks, training.id).unlink(missing_ok=True)
    write_training(job.networks, replace(training, discarded=True))


def how_of(cell: Cell, job: Job, deadline: Deadline, sink: Sink | None) -> How:
    """How the training of a cell is done."""
    options = job.options
    checkpoint = Checkpoint(job.networks / f"{cell.training.id}.ckpt", options.checkpoint_every)
    return How(checkpoint, deadline, options.eager, options.curve_every, sink)


def written(cell: Cell, job: Job, data: Dataset, how: How, outcome: Trained | Exception) -> Training:
    """The record of a training that has ended, or has failed with what it raised; its checkpoint goes.

    Raises:
        UnwritableError: that was it, or the record cannot be written.
    """
    error, network, facts = None, None, {}
    try:
        if isinstance(outcome, Exception):
            raise outcome
        network, facts = pack(outcome.net), _facts(outcome)
    except UnwritableError:
        raise
    except Exception as failure:  # a method may raise anything; the others must go on
        error = reason(failure)
    training = write_training(job.networks, _training(cell, job, data, error, facts), network)
    if not how.deadline.stopped:  # with more time such a training resumes; one that failed otherwise starts again
        how.checkpoint.remove()
    return training


def _train(cell: Cell, job: Job, data: Dataset, deadline: Deadline) -> Training:
    how = how_of(cell, job, deadline, None)
    outcome: Trained | Exception
    try:
        with sink_of(cell, job) as sink:
            outcome = train(cell.method, cell.row.suite(job.suite), data, cell.repetition, replace(how, sink=sink))
    except Exception as failure:
        outcome = failure
    return written(cell, job, data, how, outcome)


def sink_of(cell: Cell, job: Job) -> AbstractContextManager[Sink | None]:
    """The event files of a training: those of SUITE/ROW/SEED-ID, where the id tells settings of the suite apart."""
    if job.options.tensorboard is None:
        return nullcontext()
    if TENSORBOARD.missing:  # the process that asked has it; this one is on another machine
        log.warning("nothing is written for TensorBoard here: %s", TENSORBOARD.advice)
        return nullcontext()
    row = re.sub(r"[^\w.,()=+-]", "_", cell.row.name)
    folder = Path(job.options.tensorboard, job.suite.stream_name, row, f"seed{cell.repetition}-{cell.training.id[:8]}")
    return TensorBoard(folder)


def _training(cell: Cell, job: Job, data: Dataset, error: str | None, facts: Mapping[str, Any]) -> Training:
    changes = cell.row.suite(job.suite).changes
    return Training(
        id=cell.training.id,
        identity=cell.training,
        suite=job.suite.stream_name,
        changes={key: value for key, value in changes.items() if not key.startswith("evaluation.")},
        method=spec_of(cell.method),
        repetition=cell.repetition,
        status="done" if error is None else "failed",
        error=error,
        environment=environment(data.train.device),
        finished=now(),
        **facts,
    )


def _facts(done: Trained) -> dict[str, Any]:
    task = done.blueprint.task
    return {
        "input_shape": list(task.input_shape),
        "class_counts": list(task.class_counts),
        "cost": {
            "seconds": done.seconds,
            "steps": done.steps,
            "forward": done.forward,
            "backward": done.backward,
            "replayed": done.replayed,
            "peak_bytes": done.peak_bytes,
            "together": done.together,
        },
        "losses": done.losses,
        "parts": done.parts,
        "curve": done.curve,
    }
