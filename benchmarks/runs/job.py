"""What a process must know to do the runs of a plan, and which of them are not to be done again."""

import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from marginbench.benchmarks.machine import deadline
from marginbench.benchmarks.machine.deadline import DeadlineError
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import NetworkFileError, Training, damaged, find_training, network_path
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.applicable import NotApplicableError
from marginbench.benchmarks.training.loop import DivergedError
from marginbench.methods import MarginbenchError
from marginbench.methods.blame import blamed, fault
from marginbench.methods.errors import one_line


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class TrainingFailedError(RuntimeError):
    """There is no network to evaluate; the message is that of the training."""


@dataclass(frozen=True)
class Job:
    """It travels to every worker."""

    options: RunOptions
    suite: Suite  # with the settings of the options
    runs: Path  # folder of the records
    networks: Path  # folder of the trainings
    memory: int | None = None  # bytes that the process of a run plans with; default: what is available
    threads: int | None = None  # of torch, during a run; default: what the process has
    until: float | None = None  # when runs stop at the latest, on the clock of `Deadline`
    began: str = field(default_factory=now)  # UTC; what others finished later is not repeated

    def over(self, patience: float = 0.0) -> bool:
        """The time of the call was up so many seconds ago."""
        return self.until is not None and deadline.now() >= self.until + patience

    def repeats(self, record: Record) -> bool:
        """Whether an evaluation that has a record is done again; with `only="train"` none is."""
        return self.options.only != "train" and self._chosen(record)

    def retrains(self, training: Training) -> bool:
        """Whether a training that has a record is done again: also one whose network is gone."""
        if self.options.only == "evaluate":
            return False
        return self._chosen(training) or (training.status == "done" and self._lost(training))

    def _lost(self, training: Training) -> bool:
        """The network is gone, or, where failures are repeated, not the one that was written."""
        if not has_network(self.networks, training):
            return True
        return self.options.redo == "failed" and damaged(self.networks, training)

    def _chosen(self, record: Record | Training) -> bool:
        redo = self.options.redo
        chosen = redo == "everything" or (redo == "failed" and record.status == "failed")
        return chosen and record.finished <= self.began


def has_network(folder: Path, training: Training) -> bool:
    """Whether the network of a training is there."""
    return training.kept and network_path(folder, training.id).is_file()


def ended(training_id: str, job: Job) -> Training | None:
    """The record of a training, if there is one and it is not to be done again."""
    training = find_training(job.networks, training_id)
    return None if training is None or job.retrains(training) else training


def finished(path: Path, job: Job) -> Record | None:
    """The record in a file, if there is one and its evaluation is not to be done again.

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


def reason(failure: Exception) -> str:
    """Why a run failed, in one line: what was raised, and where."""
    if isinstance(failure, TrainingFailedError | NetworkFileError | NotApplicableError):
        return str(failure)
    if isinstance(failure, DivergedError | DeadlineError):
        return f"{type(failure).__name__.removesuffix('Error').lower()}: {failure}"
    if blamed(failure) is not None:
        return fault(failure)
    made = ("<string>", "__setattr__")  # by dataclasses, of frozen objects
    frames = [
        frame
        for frame in traceback.extract_tb(failure.__traceback__)
        if "site-packages" not in frame.filename and (frame.filename, frame.name) != made
    ]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{one_line(failure)}{where}"
