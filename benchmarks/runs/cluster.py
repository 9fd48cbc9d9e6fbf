"""Runs on the workers of a Dask cluster, each a process of its own, anywhere.

Workers need marginbench and the data. Where they see the output folder they write the records themselves, so that
nothing finished is lost with the driver; otherwise the driver writes what they send.
"""

import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.plugins import forget_plugins
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.runs.execute import Job, execute
from marginbench.benchmarks.runs.plan import Cell, make_plan
from marginbench.benchmarks.runs.workers import get_ready, plugin_files
from marginbench.methods import MarginbenchError, create, spec_of

TIMEOUT = 15  # seconds to find the scheduler
PAUSE = 0.2  # seconds between two looks at what is finished


class _Order(NamedTuple):
    """One cell, as it travels to a worker."""

    run_id: str
    spec: str
    repetition: int
    job: Job
    device: str
    data_dir: Path
    plugins: tuple[tuple[str, bytes], ...]  # name and content of the files


def on_cluster(cells: Sequence[Cell], job: Job, device: str, data_dir: Path, scheduler: str) -> Iterator[Record | None]:
    """The records of all cells in the order in which they end; None for one whose workers died of it.

    Args:
        device: auto, cpu or cuda, as each worker understands it.
        scheduler: address such as tcp://host:8786, or the file that `dask scheduler --scheduler-file` writes.

    Raises:
        MarginbenchError: no such cluster, workers of several threads, a worker with other data or another version,
            or a scheduler that goes away.
    """
    plugins = tuple((path.name, path.read_bytes()) for path in plugin_files(cells))
    job = replace(job, runs=job.runs.absolute())
    orders = [_Order(c.id, spec_of(c.method), c.repetition, job, device, data_dir, plugins) for c in cells]
    with _connected(scheduler) as client:
        from distributed import KilledWorker

        pending = {
            client.submit(_work, order, key=f"{order.spec}-{order.run_id}", pure=False): order for order in orders
        }
        gone = MarginbenchError(
            f"--scheduler {scheduler}: the scheduler went away: finished runs are kept in {job.runs}, and the same"
            " command goes on with the rest"
        )
        while pending:
            time.sleep(PAUSE)
            if client.status != "running" or any(future.status == "cancelled" for future in pending):
                raise gone
            for future in [future for future in pending if future.done()]:
                order = pending.pop(future)
                try:
                    record, arrays = future.result()
                except KilledWorker:
                    print(
                        f"{order.spec} seed {order.repetition}: its workers were killed, for want of memory perhaps:"
                        " the same command tries it again",
                        file=sys.stderr,
                    )
                    yield None
                    continue
                except OSError:  # of the connection: workers write their records themselves
                    raise gone from None
                if arrays is not None and not (job.runs / f"{record.id}.json").exists():
                    write_record(job.runs, record, arrays)
                yield record


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise MarginbenchError("--scheduler needs Dask: pip install 'marginbench[cluster]'") from None
    is_file = "://" not in scheduler and not scheduler.rpartition(":")[2].isdecimal()
    if is_file and not Path(scheduler).is_file():
        raise MarginbenchError(
            f"--scheduler {scheduler}: no such file; `dask scheduler --scheduler-file {scheduler}` writes it"
        )
    for logger in ("distributed", "distributed.client"):  # what they have to say we say in one line
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    where = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    try:
        client = Client(**where, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise MarginbenchError(f"--scheduler {scheduler}: no scheduler answers ({error})") from None
    try:
        several = [w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values() if w["nthreads"] > 1]
        if several:
            raise MarginbenchError(
                f"--scheduler {scheduler}: worker {several[0]} has several threads: start workers with --nthreads 1"
            )
        yield client
    finally:
        client.close(timeout=10 * PAUSE)


_ready: dict[object, tuple[Job, Dataset]] = {}  # what this worker has loaded, by what it was told: the latest alone


def _work(order: _Order) -> tuple[Record, dict[str, np.ndarray] | None]:
    """The record, and its arrays if this worker does not see the output folder."""
    job, data = _prepare(order)
    (cell,) = make_plan(job.suite, [create(order.spec)], [order.repetition], data.fingerprint)
    if cell.id != order.run_id:
        raise MarginbenchError(f"a worker has other data, or another version of {order.spec}, than the one who asks")
    while (record := execute(cell, job, data)) is None:  # a worker that died may have left its lock
        time.sleep(10 * PAUSE)
    if job.runs == order.job.runs:
        return record, None
    return record, read_arrays(job.runs / f"{record.id}.json")


def _prepare(order: _Order) -> tuple[Job, Dataset]:
    key = (order.job.suite.fingerprint, str(order.job), order.device, order.data_dir, order.plugins)
    if key not in _ready:
        _ready.clear()  # first: whatever fails below, what was there before is gone
        forget_plugins()
        folder = Path(tempfile.mkdtemp(prefix="marginbench-"))
        for name, content in order.plugins:
            (folder / name).write_bytes(content)
        job = order.job if order.job.runs.is_dir() else replace(order.job, runs=folder)
        data_dir = order.data_dir if order.data_dir.is_dir() else data_folder()
        plugins = [folder / name for name, _ in order.plugins]
        _ready[key] = job, get_ready(job.suite, resolve_device(order.device), data_dir, plugins)
    return _ready[key]
