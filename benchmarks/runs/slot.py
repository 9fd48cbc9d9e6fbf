"""The time that a call of `run_all` has: which runs are begun in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from marginbench.benchmarks.machine.deadline import now
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.runs.estimates import Estimates
from marginbench.benchmarks.runs.locks import holders
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.progress import clock

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.work import Work

log = logging.getLogger(__name__)


class Slot:
    """Gives out the runs that are left as long as they will be done in time.

    First those that an earlier call left under way; then, in the order of the plan, those whose estimate fits what is
    left of the slot. A run that no slot of this length can hold is begun when no other one fits, and goes on from its
    checkpoint in the next: it would never be done otherwise.

    Args:
        until: the end, on the clock of `Deadline`; the slot begins now.
    """

    def __init__(self, work: Work, estimates: Estimates, until: float) -> None:
        self._work, self._estimates, self._until = work, estimates, until
        self._length = max(0.0, until - now())

    def bundles(self) -> Iterator[list[Cell]]:
        """Runs that are begun at a time, chosen when they are asked for.

        On a GPU, where trainings may go together, those with which there is time for all of them one after the other.
        """
        todo, begun = list(self._work.todo), False
        while todo and now() < self._until and (cell := self._next(todo)) is not None:
            bundle = self._with(cell, todo) if self._work.device.type == "cuda" else [cell]
            todo, begun = [left for left in todo if left not in bundle], True
            yield bundle
        if todo and not begun:
            log.warning("no run was begun: set-up has left %s of the time; give --stop-after more", clock(self._length))

    def finished(self, record: Record | Training) -> None:
        """A run has ended: better estimates."""
        self._estimates.finished(record)

    def _next(self, todo: list[Cell]) -> Cell | None:
        if under_way := [cell for cell in todo if self._under_way(cell)]:
            return under_way[0]
        longer: list[Cell] = []
        for cell in todo:
            if longer and not self._estimates.known(cell):  # it takes longer still, for cheap rows come first
                continue
            if self._estimates.of(cell).seconds <= self._until - now():  # asked last: a trial takes time
                return cell
            longer.append(cell)
        for cell in longer:
            if self._estimates.of(cell).seconds > self._length:
                log.info("%s: longer than this call; begun now, it goes on in the next one", self._describe(cell))
                return cell
        left = clock(self._until - now())
        log.info("no run is begun any more: %s are left, and the next is %s", left, self._describe(longer[0]))
        return None

    def _with(self, first: Cell, todo: list[Cell]) -> list[Cell]:
        """The run, and others of which it is known how long they take."""
        bundle, left = [first], self._until - now() - self._estimates.of(first).seconds
        for cell in todo:
            if cell is not first and self._estimates.known(cell) and self._estimates.of(cell).seconds <= left:
                bundle.append(cell)
                left -= self._estimates.of(cell).seconds
        return bundle

    def _describe(self, cell: Cell) -> str:
        seconds = self._estimates.of(cell).seconds
        return f"{cell.row.name} seed {cell.repetition}, which takes about {clock(seconds)}"

    def _under_way(self, cell: Cell) -> bool:
        job = self._work.job
        begun = (job.runs / f"{cell.id}.partial").exists() and job.options.only != "train"
        checkpoint = (job.networks / f"{cell.training.id}.ckpt").exists() and job.options.only != "evaluate"
        return begun or checkpoint


def held_elsewhere(work: Work) -> int:
    """How many of the runs to do another process is at."""
    held = {*holders(work.runs), *holders(work.job.networks)}
    return sum(cell.id in held or cell.training.id in held for cell in work.todo)
