"""A process that does runs of a plan. It gets ready once, and is then told one run after the other by name."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.device import keep_freed_memory
from marginbench.benchmarks.plugins import load_installed_plugins, load_plugin
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.runs.execute import execute
from marginbench.benchmarks.runs.groups import run_in_groups
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.note import Note
from marginbench.benchmarks.runs.plan import Cell, Row, make_plan
from marginbench.benchmarks.training.loop import warm_up
from marginbench.methods import MarginbenchError, create, spec_of


@dataclass(frozen=True)
class Order:
    """One run, as it travels to another process."""

    run_id: str
    method: str  # spec
    repetition: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None


@dataclass(frozen=True)
class Workplace:
    """A process that has loaded what the runs of a job need."""

    job: Job
    data: Dataset  # on the device

    def work(self, order: Order, tell: Callable[[str], None] | None = None) -> Record | Training | None:
        """Do a run: see `execute`.

        Args:
            tell: see `Deadline`.

        Raises:
            MarginbenchError: it would be another run here.
        """
        return execute(self._cell(order), self.job, self.data, tell)

    def work_all(
        self, orders: Sequence[Order], begin: Callable[[list[str]], None], note: Note
    ) -> Iterator[tuple[str, Record | Training | None]]:
        """Do runs, on a GPU in groups: their ids and records, in the order in which they end.

        Args:
            begin: is told the ids of those that are done next.

        Raises:
            MarginbenchError: as `work`.
        """
        cells = [self._cell(order) for order in orders]
        if self.data.train.device.type == "cuda":
            yield from run_in_groups([cells], self.job, self.data, note, begin)
            return
        for cell in cells:
            begin([cell.id])
            yield cell.id, execute(cell, self.job, self.data, partial(note, cell.id))

    def _cell(self, order: Order) -> Cell:
        row = Row(create(order.method), order.recipe, order.tuning)
        (cell,) = make_plan(self.job.suite, [row], [order.repetition], self.data.fingerprint)
        if cell.id != order.run_id:
            raise MarginbenchError(
                f"a worker has other data, or another version of {order.method}, than the process that asks"
            )
        return cell


def order(cell: Cell) -> Order:
    return Order(cell.id, spec_of(cell.method), cell.repetition, cell.row.recipe, cell.row.tuning)


def get_ready(job: Job, plugins: Iterable[Path], device: torch.device, data_dir: Path) -> Workplace:
    """Load plug-ins, data and kernels.

    Raises:
        MarginbenchError: plug-ins or data that are not there.
    """
    load_installed_plugins()
    for path in plugins:
        load_plugin(path)
    keep_freed_memory()
    with _said_already():
        data = job.suite.load_data(data_dir).to(device)
    warm_up(job.suite, data)
    return Workplace(job, data)


@contextmanager
def _said_already() -> Iterator[None]:
    """A block without the lines on how the data were read: the process that asks has shown them."""
    logger = logging.getLogger(Dataset.__module__.rpartition(".")[0])
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
