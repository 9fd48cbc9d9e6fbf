"""The same number of trials for every row, and the setting that each of them chooses."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.plan import Row
from marginbench.benchmarks.runs.workers import choose_jobs, plugin_files, run_here, run_in_workers
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tuning.judge import Judge
from marginbench.benchmarks.tuning.merge import merge
from marginbench.benchmarks.tuning.options import TuneOptions
from marginbench.benchmarks.tuning.progress import TrialProgress
from marginbench.benchmarks.tuning.queue import PAUSE, Queue
from marginbench.benchmarks.tuning.study import loaded_optuna
from marginbench.benchmarks.tuning.work import Work, prepare
from marginbench.methods import MarginbenchError, create, spec_of
from marginbench.methods.words import counted

log = logging.getLogger(__name__)
ON_GPU = 8  # rows in progress: their trainings may go together


@dataclass(frozen=True)
class TuneOutcome:
    """What a call of `tune` did."""

    settings: list[Tuning]  # of the rows that have all their trials
    files: list[Path]  # of these, in the same order
    folder: Path  # of the tuning: what `run_all` takes as `tuned`
    trials: int  # that this call has added
    elsewhere: list[str]  # rows that another process holds
    hopeless: dict[str, str]  # rows without a setting, and why


def tune(options: TuneOptions) -> TuneOutcome:
    """Choose a setting for each row, with the same number of trials for all of them.

    Of each row, trial 0 is the published default, and further ones lie in the ranges that stand beside the fields of
    its method. Each is an ordinary training with its record, judged on the validation images; the test images are
    not looked at. A trial that diverges counts. Stop at any time, and make the same call again for the rest; several
    processes may share the output folder, in which each row is tuned by one of them at a time.

    Raises:
        MarginbenchError: wrong input, found before the first trial starts.
    """
    with shown() if options.run.progress else nullcontext():
        loaded_optuna()
        work = prepare(options)
        for other in options.merge:
            merge(Path(other).expanduser(), work)
        return _tune(work)


def _tune(work: Work) -> TuneOutcome:
    options = work.options
    judge = Judge(options.objective, options.norm_asked, _floor(work))
    names = [spec_of(method) for method in work.rows]
    jobs = choose_jobs(options.run.jobs, len(names), work.data.train.device, work.job.memory)
    if jobs > 1:
        plugin_files([work.cell(Row(method)) for method in work.rows])  # complains of what workers cannot see
    progress = TrialProgress(dict.fromkeys(names, options.trials), jobs, options.run.progress)
    what = f"{counted(len(names), 'row')} x {counted(options.trials, 'trial')}"
    progress.say(f"{what}, by {options.objective.replace('_', ' ')} on validation images")
    on_gpu = work.data.train.device.type == "cuda"
    with Queue(work, judge, progress, ON_GPU if on_gpu else jobs + 1) as queue:
        if queue.todo:
            alone = on_gpu or (jobs == 1 and options.run.deadline is None)
            todo, job, data = queue.todo, work.job, work.data
            for record in run_here(todo, job, data) if alone else run_in_workers(todo, job, data, jobs):
                queue.ended(record)
    progress.say(f"{counted(queue.done, 'trial')} done", last=True)
    return TuneOutcome(queue.settings, queue.files, work.folder, queue.done, queue.elsewhere, queue.hopeless)


def _floor(work: Work) -> float:
    """The clean accuracy that robust settings must have: a share of that of the default of cross-entropy.

    It is trained here if that has not been done. Its training is trial 0 of its row.

    Raises:
        MarginbenchError: that failed.
    """
    if work.options.objective == "validation_accuracy":
        return 0.0
    cell = work.cell(Row(create(BASELINE)))
    while (record := work.known(cell)) is None:
        log.info("training %s, whose clean accuracy is the measure of the floor", BASELINE)
        if isinstance(next(iter(run_here([cell], work.job, work.data))), Record):
            continue
        time.sleep(PAUSE)  # another process is at it
    if record.status == "failed":
        raise MarginbenchError(f"floor: the default of {BASELINE} failed: {record.error}")
    return work.options.share * record.metrics["clean_accuracy"]
