"""How long the runs of a call will take: as long as those of the same row did, else by a trial of a few steps."""

from __future__ import annotations

import logging
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from marginbench.benchmarks.machine.deadline import Deadline, SlotOverError, alarm
from marginbench.benchmarks.machine.device import threads_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training, find_training
from marginbench.benchmarks.runs.job import ended
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.timing import evaluation_seconds, training_seconds
from marginbench.methods.errors import one_line

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.work import Work

log = logging.getLogger(__name__)


class Estimate(NamedTuple):
    seconds: float
    source: str  # records, a few steps, or why these failed
    training: float = 0.0  # those of them that are a training tried by itself, where others may go beside it


class Estimates:
    """Seconds of the stages that runs have still to do, from records, from trials, and from what the call has told.

    Args:
        threads: of torch in a trial. Default: what the process has.
    """

    def __init__(self, work: Work, threads: int | None = None) -> None:
        self._work, self._threads = work, threads
        self._training: defaultdict[str, list[float]] = defaultdict(list)  # seconds that were measured, by row
        self._evaluation: defaultdict[str, list[float]] = defaultdict(list)
        self._trials: dict[str, Estimate] = {}  # of trainings, by row
        self._trial_evaluation: float | None = None
        for record in work.known:
            self.finished(record)
        seen = {record.identity.training for record in work.known}
        for cell in work.cells:
            if cell.training.id not in seen and (training := find_training(work.job.networks, cell.training.id)):
                self.finished(training)

    def finished(self, record: Record | Training) -> None:
        """A run has ended, of this call or an earlier one."""
        if record.status != "done":
            return
        for stage, key in ((self._training, "seconds"), (self._evaluation, "evaluation_seconds")):
            if (seconds := record.cost.get(key)) is not None:
                stage[record.method].append(seconds)

    def known(self, cell: Cell) -> bool:
        """Whether it takes no trial of its training to say how long the run takes."""
        spec = cell.row.name
        return spec in self._training or spec in self._trials or not self._trains(cell)

    def of(self, cell: Cell) -> Estimate:
        """What is left of a run; a checkpoint would shorten it."""
        training = self._to_train(cell) if self._trains(cell) else Estimate(0.0, "records")
        if self._work.job.options.only == "train" or training.source not in ("records", "a few steps"):
            return training
        spec = cell.row.name
        seconds = training.seconds + self._to_evaluate(spec)
        return training._replace(seconds=seconds, source=training.source if spec in self._evaluation else "a few steps")

    def _trains(self, cell: Cell) -> bool:
        job = self._work.job
        return job.options.only != "evaluate" and ended(cell.training.id, job) is None

    def _to_train(self, cell: Cell) -> Estimate:
        spec = cell.row.name
        if spec in self._training:
            return Estimate(fmean(self._training[spec]), "records")
        if spec not in self._trials:
            self._trials[spec] = self._try(cell)
        seconds, source, _ = self._trials[spec]
        both = [name for name in self._trials if name in self._training]
        tried = sum(self._trials[name].seconds for name in both)
        pace = sum(fmean(self._training[name]) for name in both) / tried if tried else 1.0
        return Estimate(pace * seconds, source, pace * seconds)

    def _try(self, cell: Cell) -> Estimate:
        log.info("timing a few steps of %s", cell.row.name)
        left = Deadline(until=self._work.job.until).left
        suite = cell.row.suite(self._work.suite)
        try:
            with threads_of(self._threads), alarm(left, SlotOverError()):
                return Estimate(training_seconds(cell.method, suite, self._work.data), "a few steps")
        except SlotOverError:  # it takes longer than there was time
            return Estimate(left or 0.0, "a few steps")
        except Exception as error:  # what a method raises here it raises in the run too, which then is a failed one
            return Estimate(0.0, one_line(error))

    def _to_evaluate(self, spec: str) -> float:
        if spec in self._evaluation:
            return fmean(self._evaluation[spec])
        if self._evaluation:
            return fmean(fmean(seconds) for seconds in self._evaluation.values())
        if self._trial_evaluation is None:
            with threads_of(self._threads):
                self._trial_evaluation = evaluation_seconds(self._work.suite, self._work.data)
        return self._trial_evaluation
