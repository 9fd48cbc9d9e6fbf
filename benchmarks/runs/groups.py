"""Where a GPU does the runs of a plan: several trainings at once, and their evaluations one after the other."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.budget import available, gigabytes, limited
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.device import threads_of
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.runs.execute import execute
from marginbench.benchmarks.runs.job import Job, ended
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.note import Note
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.train import how_of, sink_of, written
from marginbench.benchmarks.training import trial
from marginbench.benchmarks.training.choice import LARGEST, Alone, best_size, choose
from marginbench.benchmarks.training.together import Entrant, train_together
from marginbench.methods import spec_of

log = logging.getLogger(__name__)


class Grouping:
    """Says which trainings go together, from trials that are made when they are needed, each once."""

    def __init__(self, job: Job, data: Dataset) -> None:
        self._job, self._data = job, data
        self._alone: dict[str, Alone] = {}
        self._seconds: dict[int, float] | None = None

    def next(self, cells: Sequence[Cell]) -> list[Cell]:
        """The first of the cells, with those whose trainings are done together with its own: by the suite's recipe."""
        options = self._job.options
        singly = options.jobs == 1 or options.eager or options.only == "evaluate"
        if singly or cells[0].row.recipe or not self._left(cells[0]):
            return [cells[0]]
        left = [cell for cell in cells if not cell.row.recipe and self._left(cell)]
        if len(left) == 1:
            return left
        methods = {spec_of(cell.method): cell.method for cell in left}
        rows = [spec_of(cell.method) for cell in left]

        def alone(row: str) -> Alone:
            if row not in self._alone:
                self._alone[row] = trial.alone(methods[row], self._job.suite, self._data, compile=options.compile)
            return self._alone[row]

        if alone(rows[0]).obstacle:
            return [cells[0]]
        places = choose(rows, alone, self.most(left[0], len(left)), available(self._data.train.device))
        return [left[place] for place in places]

    def most(self, cell: Cell, cells: int) -> int:
        """Trainings at once that are worth it, found with the method of the cell; of so many that are left."""
        asked = min(self._job.options.jobs or LARGEST, cells)
        if self._seconds is None:
            self._seconds = trial.growth(cell.method, self._job.suite, self._data, asked)
            tried = ", ".join(f"{size}: {1e3 * taken / size:.2f}" for size, taken in self._seconds.items())
            log.info("trainings at once and milliseconds of a step of each: %s", tried)
        return min(asked, best_size(self._seconds)) if self._seconds else 1

    def speedup(self, size: int) -> float:
        """How many times the steps of one training a group of the size does in a second, as far as was tried."""
        seconds = self._seconds or {}
        tried = max((known for known in seconds if known <= size), default=1)
        return tried * seconds[1] / seconds[tried] if seconds else 1.0

    def known(self, cell: Cell) -> Alone:
        """What was measured of its row."""
        return self._alone[spec_of(cell.method)]

    def bytes(self, cells: Sequence[Cell]) -> int:
        """That a group takes, as far as it was measured."""
        return sum(self._alone.get(spec_of(cell.method), Alone()).bytes for cell in cells)

    def _left(self, cell: Cell) -> bool:
        return ended(cell.training.id, self._job) is None


def run_in_groups(
    bundles: Iterable[Sequence[Cell]],
    job: Job,
    data: Dataset,
    note: Note,
    begin: Callable[[list[str]], None] = lambda _: None,
) -> Iterator[tuple[str, Record | Training | None]]:
    """The ids and records of all cells, group by group; None for those that another process holds.

    Args:
        bundles: cells that may go together, one bundle after the other; asked for when those before are done.
        begin: is told the ids of each group.
    """
    grouping = Grouping(job, data)
    for bundle in bundles:
        left = list(bundle)
        while left and not job.over():
            chosen = grouping.next(left)
            taken = [cell.id for cell in chosen]
            left = [cell for cell in left if cell.id not in taken]
            begin(taken)
            spent = _train(chosen, grouping, job, data, note) if len(chosen) > 1 else {}
            for cell in chosen:
                yield cell.id, execute(cell, job, data, partial(note, cell.id), spent.get(cell.id, 0.0))


class _Held(NamedTuple):
    cell: Cell
    block: ExitStack  # its lock and its sink
    entrant: Entrant


def _train(cells: Sequence[Cell], grouping: Grouping, job: Job, data: Dataset, note: Note) -> dict[str, float]:
    """Train the cells together, and write a record of each; their seconds, by id of the run.

    One that another process holds is left out, and where that leaves a single one nothing is done.
    """
    job.networks.mkdir(parents=True, exist_ok=True)
    spent: dict[str, float] = {}
    with limited(job.memory), threads_of(job.threads), ExitStack() as stack:
        held: list[_Held] = []
        for cell in cells:
            block = stack.enter_context(ExitStack())
            got = block.enter_context(lock(job.networks, cell.training.id, cell.row.name, cell.repetition, len(cells)))
            if got and ended(cell.training.id, job) is None:
                sink = block.enter_context(sink_of(cell, job))
                how = how_of(cell, job, Deadline(job.options.deadline, partial(note, cell.id), until=job.until), sink)
                known = grouping.known(cell)
                how = replace(how, compiled=known.compiled)
                held.append(_Held(cell, block, Entrant(cell.method, cell.repetition, how, known.seconds)))
            else:
                block.close()
        if len(held) < 2:
            return spent
        log.info("training %d at once, with %s of memory", len(held), gigabytes(grouping.bytes([h.cell for h in held])))
        for left in train_together([one.entrant for one in held], job.suite, data):
            one = held[left.place]
            spent[one.cell.id] = left.seconds
            if left.outcome is not None:
                written(one.cell, job, data, one.entrant.how, left.outcome)
            one.block.close()
    return spent
