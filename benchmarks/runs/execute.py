"""One cell: a training and an evaluation, each done unless there is a record of it."""

from collections.abc import Callable
from contextlib import suppress

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.machine.budget import limited
from marginbench.benchmarks.machine.deadline import Deadline, DeadlineError, SlotOverError, alarm
from marginbench.benchmarks.machine.device import threads_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training, network_bytes
from marginbench.benchmarks.runs.job import Job, TrainingFailedError, finished
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.measure import Results, entry_of, measure, record_run
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.train import discard, failed, trained
from marginbench.benchmarks.training.kept import blueprint_of, unpack


def execute(
    cell: Cell, job: Job, data: Dataset, tell: Callable[[str], None] | None = None, spent: float = 0.0
) -> Record | Training | None:
    """Train and evaluate one cell, as far as the options want it, whatever happens to the method.

    Args:
        tell, spent: see `Deadline`.

    Returns:
        The record of the evaluation, or of the training where only that is asked for; possibly another process's.
        None while another process holds the run, where there is no network to evaluate, and where the time of the call
        was up before the end: a checkpoint and what the evaluation has found are kept.
    """
    if job.over():
        return None
    deadline = Deadline(job.options.deadline, tell, spent=spent, until=job.until)
    with limited(job.memory), threads_of(job.threads), suppress(SlotOverError):
        if job.options.only == "train":
            return trained(cell, job, data, deadline)

        def both() -> Record | None:
            training = trained(cell, job, data, deadline)
            return None if training is None else _evaluate(cell, job, data, training, deadline)

        return _once(cell, job, both)
    return None


def give_up(cell: Cell, job: Job, data: Dataset, why: DeadlineError) -> Record | Training | None:
    """Write the record of a run that was stopped from outside. Its checkpoint stays.

    Returns:
        as `execute`: the record that it had just written itself, if it had.
    """

    def stopped() -> Results:
        raise why

    if job.options.only == "train":
        return failed(cell, job, data, why)
    return _once(cell, job, lambda: record_run(stopped, entry_of(cell), job.suite, data, job.runs))


def _once(cell: Cell, job: Job, do: Callable[[], Record | None]) -> Record | None:
    """The record of a cell, made now unless there is one; None while another process holds the run."""
    with lock(job.runs, cell.id, cell.row.name, cell.repetition) as got:
        if not got:
            return None
        return finished(job.runs / f"{cell.id}.json", job) or do()


def _evaluate(cell: Cell, job: Job, data: Dataset, training: Training, deadline: Deadline) -> Record:
    partial = Partial(job.runs / f"{cell.id}.partial")

    def run() -> Results:
        if training.status == "failed":
            raise TrainingFailedError(training.error)
        net = unpack(
            network_bytes(job.networks, training),
            blueprint_of(training, cell.method, job.suite.network, data.checkpoint),
            data.train.device,
        )
        names = (cell.method.info.key, cell.repetition)
        with alarm(deadline.left, SlotOverError()):  # an estimator does not look at the clock
            results, arrays = measure(net, cell.method.certify, data, job.suite, *names, deadline, partial)
        facts = {name: getattr(training, name) for name in ("losses", "parts", "curve")}
        facts["trained"] = training.environment
        return {**results, **facts, "cost": {**training.cost, **results["cost"]}}, arrays

    record = record_run(run, entry_of(cell), job.suite, data, job.runs)
    if record.status == "done":
        partial.remove()
        if job.options.discard:
            discard(job, training)
    return record
