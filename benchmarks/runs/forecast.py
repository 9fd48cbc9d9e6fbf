"""What a plan will take: time and memory, from the runs that have a record, or from a few steps of each method."""

import logging
import resource
import sys
from statistics import fmean

import torch

from marginbench.benchmarks.machine.device import cores
from marginbench.benchmarks.runs.groups import Grouping
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.progress import clock, size
from marginbench.benchmarks.runs.run_all import Work, count_workers
from marginbench.benchmarks.runs.timing import evaluation_seconds, training_seconds
from marginbench.benchmarks.training.run import Run
from marginbench.methods.errors import one_line

log = logging.getLogger(__name__)


def forecast(work: Work) -> str:
    """A table of the rows of the work, and what is left in all.

    It trains and evaluates a little, and writes nothing.

    Raises:
        MarginbenchError: no such cluster.
    """
    from tabulate import tabulate

    workers = count_workers(work)
    threads = torch.get_num_threads()
    if work.job.options.scheduler is None:
        torch.set_num_threads(max(1, cores() // workers))
    known = {record.method for record in work.known}
    unknown = any(cell.row.name not in known for cell in work.todo)
    evaluation = evaluation_seconds(work.suite, work.data) if unknown else 0.0
    running = holders(work.runs) if work.runs.is_dir() else {}
    groups: dict[str, str] = {}  # in words, by row
    rows, total = [], 0.0
    grouping = Grouping(work.job, work.data) if work.device.type == "cuda" else None
    specs = list(dict.fromkeys(cell.row.name for cell in work.cells))
    for number, spec in enumerate(specs, 1):
        cells = [cell for cell in work.cells if cell.row.name == spec]
        todo = [cell for cell in work.todo if cell.row.name == spec]
        before = [record for record in work.known if record.method == spec]
        seconds, source = (fmean(run.total_seconds for run in before), "records") if before else (0.0, "-")
        if todo and not before:
            log.info("[%d/%d] timing a few steps of %s", number, len(specs), spec)
            training, problem = _training_seconds(todo[0], work)
            if grouping is not None:
                training, groups[spec] = shared(training, todo[0], work, grouping)
            seconds, source = (training + evaluation, "a few steps") if problem is None else (0.0, problem)
        at_work = sum(cell.id in running for cell in todo)
        rows.append((spec, len(cells), len(cells) - len(todo), at_work, len(todo), clock(seconds), source))
        total += seconds * len(todo)
    torch.set_num_threads(threads)
    table = tabulate(rows, ("method", "runs", "done", "running", "to do", "time each", "from"), tablefmt="github")
    share = f"{workers} worker{'s' * (workers > 1)}"
    at_once = "".join(f"{spec}: {words}.\n" for spec, words in groups.items() if words)
    return (
        f"{table}\n\n{at_once}"
        f"{len(work.todo)} of {len(work.cells)} runs to do: about {clock(total / workers)} with {share},"
        f" {_memory(work)} of memory each.\n{_disk(work)}\nNot known: what else this machine will be doing, and how"
        " much longer than ce's network other networks take to attack and to certify; a checkpoint shortens a run."
    )


def _training_seconds(cell: Cell, work: Work) -> tuple[float, str | None]:
    """Seconds of one training, or why there is none."""
    try:
        return training_seconds(cell.method, cell.row.suite(work.suite), work.data), None
    except Exception as error:  # what a method raises here it raises in the run too, which then is a failed one
        return 0.0, one_line(error)


def shared(seconds: float, cell: Cell, work: Work, grouping: Grouping) -> tuple[float, str]:
    """The share of a training in the seconds of its group, and what that group is, in words; empty if it is alone."""
    place = next(place for place, one in enumerate(work.todo) if one.id == cell.id)
    group = grouping.next([*work.todo[place:], *work.todo[:place]])
    if len(group) == 1:
        return seconds, ""
    times = grouping.speedup(len(group))
    memory = size(grouping.bytes(group))
    return seconds / times, f"{len(group)} trainings at once, {times:.2g} times as fast as one by one, with {memory}"


def _disk(work: Work) -> str:
    """What the networks take that are kept, each as large as the first one."""
    if work.job.options.only == "evaluate" or not work.cells:
        return "No network is trained."
    state = Run(work.cells[0].method, work.suite, work.data, 0).net.state_dict()
    each = sum(value.nbytes for value in state.values())
    left = "while a run lasts" if work.job.options.discard else "in all"
    count = 1 if work.job.options.discard else len({cell.training.id for cell in work.cells})
    return f"Networks: about {size(each)} each, {size(each * count)} {left}, in {work.job.networks}."


def _memory(work: Work) -> str:
    if work.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(work.device) / 2**30:.1f} GiB"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak * (1 if sys.platform == 'darwin' else 1024) / 2**30:.1f} GiB"
