"""What a plan will take: time and memory, from the runs that have a record, or from a few steps of each method."""

import resource
import sys
from statistics import fmean

import torch

from marginbench.benchmarks.runs.estimates import Estimate, Estimates
from marginbench.benchmarks.runs.groups import Grouping
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.progress import clock, size
from marginbench.benchmarks.runs.work import Work, count_workers, threads_each
from marginbench.benchmarks.training.run import Run
from marginbench.methods.words import counted


def forecast(work: Work) -> str:
    """A table of the rows of the work, and what is left in all.

    It trains and evaluates a little, and writes nothing.

    Raises:
        MarginbenchError: no such cluster.
    """
    from tabulate import tabulate

    workers = count_workers(work)
    estimates = Estimates(work, threads_each(work, workers))
    running = holders(work.runs) if work.runs.is_dir() else {}
    groups: dict[str, str] = {}  # in words, by row
    rows, total = [], 0.0
    grouping = Grouping(work.job, work.data) if work.device.type == "cuda" else None
    specs = list(dict.fromkeys(cell.row.name for cell in work.cells))
    for spec in specs:
        cells = [cell for cell in work.cells if cell.row.name == spec]
        todo = [cell for cell in work.todo if cell.row.name == spec]
        each = [estimates.of(cell) for cell in todo]  # some may have their network already
        if grouping is not None and each and each[0].training:
            together, groups[spec] = shared(each[0].training, todo[0], work, grouping)
            saved = each[0].training - together
            each = [one._replace(seconds=one.seconds - saved * (one.training > 0)) for one in each]
        before = [record.total_seconds for record in work.known if record.method == spec]
        seconds, source, _ = max(each, default=Estimate(fmean(before), "records") if before else Estimate(0.0, "-"))
        at_work = sum(cell.id in running for cell in todo)
        rows.append((spec, len(cells), len(cells) - len(todo), at_work, len(todo), clock(seconds), source))
        total += sum(one.seconds for one in each)
    table = tabulate(rows, ("method", "runs", "done", "running", "to do", "time each", "from"), tablefmt="github")
    share = counted(workers, "worker")
    at_once = "".join(f"{spec}: {words}.\n" for spec, words in groups.items() if words)
    return (
        f"{table}\n\n{at_once}"
        f"{len(work.todo)} of {counted(len(work.cells), 'run')} to do: about {clock(total / workers)} with {share},"
        f" {_memory(work)} of memory each.\n{_disk(work)}\nNot known: what else this machine will be doing, and how"
        " much longer than ce's network other networks take to attack and to certify; a checkpoint shortens a run."
    )


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
