"""What a plan will take: time and memory, from the runs that have a record, or from a few steps of each method."""

import logging
import resource
import sys
from dataclasses import replace
from statistics import fmean

import torch

from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import cores, seconds_on
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.progress import clock
from marginbench.benchmarks.runs.run_all import Work
from marginbench.benchmarks.runs.workers import choose_jobs
from marginbench.benchmarks.training.loop import Run, train
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.methods import Method, create, spec_of
from marginbench.methods.errors import one_line

log = logging.getLogger(__name__)

STEPS = 3  # that are timed at most, after one that is not
PATIENCE = 5.0  # seconds after which no further step is timed
POINTS = 16  # on which the evaluation is timed


def forecast(work: Work) -> str:
    """A table of the rows of the work, and what is left in all.

    Raises:
        MarginbenchError: the number of jobs.
    """
    from tabulate import tabulate

    workers = choose_jobs(work.job.options.jobs, len(work.todo), work.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // workers))
    evaluation = _evaluation_seconds(work) if work.todo else 0.0
    running = holders(work.runs) if work.runs.is_dir() else {}
    rows, total = [], 0.0
    specs = list(dict.fromkeys(spec_of(cell.method) for cell in work.cells))
    for number, spec in enumerate(specs, 1):
        cells = [cell for cell in work.cells if spec_of(cell.method) == spec]
        todo = [cell for cell in work.todo if spec_of(cell.method) == spec]
        before = [record for record in work.known if record.method == spec]
        seconds, source = (fmean(run.total_seconds for run in before), "records") if before else (0.0, "-")
        if todo and not before:
            log.info("[%d/%d] timing a few steps of %s", number, len(specs), spec)
            training, problem = _training_seconds(todo[0], work)
            seconds, source = (training + evaluation, "a few steps") if problem is None else (0.0, problem)
        at_work = sum(cell.id in running for cell in todo)
        rows.append((spec, len(cells), len(cells) - len(todo), at_work, len(todo), clock(seconds), source))
        total += seconds * len(todo)
    torch.set_num_threads(threads)
    table = tabulate(rows, ("method", "runs", "done", "running", "to do", "time each", "from"), tablefmt="github")
    share = f"{workers} worker{'s' * (workers > 1)}"
    return (
        f"{table}\n\n{len(work.todo)} of {len(work.cells)} runs to do: about {clock(total / workers)} with {share},"
        f" {_memory(work)} of memory each.\nTimes are rough: a few steps on this machine as busy as it is now."
    )


def _training_seconds(cell: Cell, work: Work) -> tuple[float, str | None]:
    """Seconds of one training, or why there is none."""
    try:
        return _time_steps(cell.method, work), None
    except Exception as error:  # what a method raises here it raises in the run too, which then is a failed one
        return 0.0, one_line(error)


def _time_steps(method: Method, work: Work) -> float:
    with seeds.seeded(work.device, "forecast"):
        run = Run(method, work.suite, work.data, 0)
        before = min(1 if run.replay is None else SETTLED + 1, run.ctx.steps - 1)  # they load kernels and record
        for _ in range(before):
            run.step()
        timed, seconds, start = 0, 0.0, seconds_on(work.device)
        while timed < min(STEPS, run.ctx.steps - before) and seconds < PATIENCE:
            run.step()
            timed, seconds = timed + 1, seconds_on(work.device) - start
        return seconds / timed * run.ctx.steps


def _evaluation_seconds(work: Work) -> float:
    """Of a network that was hardly trained, so a guess: hard points take longer."""
    short = work.suite.training.model_copy(update={"epochs": 1})
    part = replace(work.data.train, x=work.data.train.x[:4096], y=work.data.train.y[:4096])
    suite = work.suite.model_copy(update={"training": short})
    method = create("ce")
    net = train(method, suite, replace(work.data, train=part), 0).net
    points = min(suite.evaluation.points, len(work.data.test))
    few = suite.evaluation.model_copy(update={"points": min(POINTS, points)})
    start = seconds_on(work.device)
    evaluate(net, method.certify, work.data, few, "forecast")
    return (seconds_on(work.device) - start) / few.points * points


def _memory(work: Work) -> str:
    if work.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(work.device) / 2**30:.1f} GiB"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak * (1 if sys.platform == 'darwin' else 1024) / 2**30:.1f} GiB"
