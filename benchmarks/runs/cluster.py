"""Runs on the workers of a Dask cluster: processes anywhere.

Workers need marginbench and the data. Those that see the output folder write the records themselves, so that nothing
finished is lost with the driver; for the others the driver writes what they send.
"""

import contextlib
import itertools
import logging
import pickle
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marginbench.benchmarks.data.dataset import data_folder
from marginbench.benchmarks.extras import CLUSTER
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.plugins import forget_plugins
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.records.training import (
    NETWORKS,
    Training,
    find_training,
    network_path,
    write_training,
)
from marginbench.benchmarks.runs.job import Job, ended, finished, has_network
from marginbench.benchmarks.runs.luggage import Luggage, pack
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.runs.workers import Chosen, plugin_files
from marginbench.benchmarks.runs.workplace import Order, Workplace, get_ready, order
from marginbench.methods.errors import ParameterError
from marginbench.methods.words import counted

log = logging.getLogger(__name__)
TIMEOUT = 15  # seconds to find the scheduler
PAUSE = 0.2  # seconds between two looks at what is finished
LEAVING = 60.0  # seconds beyond the end of a call in which workers may stop: between two steps or estimators
GONE = (OSError, ValueError, TypeError)  # what a scheduler that has gone raises
LOOKS = 10  # at that, between two looks at who is there


class _Kept(NamedTuple):
    """A training and the content of its file, on their way to a process that does not see the folder."""

    training: Training
    content: bytes | None  # None where it failed


class _Done(NamedTuple):
    """What a worker has done; only a worker that does not see the output folder sends more than the record."""

    record: Record | Training | None  # None where the time of the call was up
    arrays: dict[str, np.ndarray] | None = None
    network: _Kept | None = None


class _Parcel(NamedTuple):
    """One run and all that a worker must know for it."""

    order: Order
    job: bytes  # pickled, which also tells one job from another
    plugins: tuple[Luggage, ...]
    token: str  # name of a file in the folder of records: who sees it sees the driver's folder
    network: _Kept | None  # that the driver has already


def on_cluster(
    cells: Sequence[Cell], job: Job, scheduler: str, chosen: Chosen | None = None
) -> Iterator[Record | Training | None]:
    """The records of all cells in the order in which they end; None for one whose workers were killed by it.

    Args:
        job: each worker resolves its `device` itself.
        scheduler: address such as tcp://host:8786, or the file that `dask scheduler --scheduler-file` writes.
        chosen: gives out those that are done, each when a worker is free. Default: all at once.

    Raises:
        MarginbenchError: no such cluster, workers of several threads, a plug-in that cannot travel, a worker with other
            data or another version, or a scheduler that goes away.
    """
    plugins = tuple(map(pack, plugin_files(cells)))
    job = replace(job, runs=job.runs.absolute(), networks=job.networks.absolute())
    packed = pickle.dumps(job)
    if job.options.deadline is not None:
        log.warning(
            "a run that hangs on a worker of the cluster is not killed: workers look at the deadline between two steps"
            " only; watch them by the cluster's own means, as `dask worker --lifetime`"
        )
    with _connected(scheduler) as client, _token(job.runs) as token:
        from distributed import KilledWorker

        pending: dict[Any, Order] = {}
        todo, more = iter(cells) if chosen is None else itertools.chain.from_iterable(chosen), True
        gone = ParameterError(
            "scheduler",
            scheduler,
            f"went away: finished runs are kept in {job.runs}; run the same command again for the rest",
        )
        there: bool | None = None
        looks = 0
        while more or pending:
            room = len(cells) if chosen is None else max(0, _count(client) - len(pending))
            for cell in (given := list(itertools.islice(todo, room))):
                told = order(cell)
                key = f"{told.method}-{told.run_id}"
                parcel = _Parcel(told, packed, plugins, token, _kept(job.networks, cell.training.id))
                pending[client.submit(_work, parcel, key=key, pure=False)] = told
            more = more and len(given) == room and chosen is not None and not job.over()
            if job.over(LEAVING):
                log.warning("left to the cluster: %s beyond the time of this call", counted(len(pending), "run"))
                return
            if looks % LOOKS == 0:
                there = _report_workers(client, scheduler, there)
            looks += 1
            time.sleep(PAUSE)
            if client.status != "running" or any(future.status == "cancelled" for future in pending):
                raise gone
            for future in [future for future in pending if future.done()]:
                told = pending.pop(future)
                try:
                    done = future.result()
                except KilledWorker:
                    log.warning(
                        "%s seed %d: its workers were killed, perhaps because memory ran out: run the same command"
                        " again for it",
                        told.method,
                        told.repetition,
                    )
                    yield None
                    continue
                except OSError:  # of the connection: workers write their records themselves
                    raise gone from None
                yield _keep(done, job)


def _keep(done: _Done, job: Job) -> Record | Training | None:
    """Write what a worker has sent; what another process has written meanwhile stays."""
    if done.network is not None and ended(done.network.training.id, job) is None:
        write_training(job.networks, *done.network)
    if done.arrays is None or not isinstance(done.record, Record):
        return done.record
    kept = finished(job.runs / f"{done.record.id}.json", job)
    if kept is None:
        write_record(job.runs, done.record, done.arrays)
    return kept or done.record


def _kept(folder: Path, training_id: str) -> _Kept | None:
    """The network of a training, if there is one in the folder."""
    training = find_training(folder, training_id)
    if training is None:
        return None
    return _Kept(training, network_path(folder, training_id).read_bytes() if has_network(folder, training) else None)


def _report_workers(client: Any, scheduler: str, before: bool | None) -> bool:
    """Whether the cluster has workers now; said where it has none, and where that has changed."""
    try:
        count = len(_workers(client))
    except GONE:  # noticed elsewhere
        return bool(before)
    if not count and before is not False:
        log.warning(
            "the cluster has no workers: waiting for the first; start one with `dask worker --nthreads 1 %s`",
            f"--scheduler-file {scheduler}" if _is_file(scheduler) else scheduler,
        )
    elif count and before is False:
        log.info("the cluster has %s now", counted(count, "worker"))
    return count > 0


def _is_file(scheduler: str) -> bool:
    return "://" not in scheduler and not scheduler.rpartition(":")[2].isdecimal()


def count_workers(scheduler: str) -> int:
    """How many workers a cluster has now.

    Raises:
        MarginbenchError: no such cluster, or workers of several threads.
    """
    with _connected(scheduler) as client:
        return len(_workers(client))


@contextlib.contextmanager
def _token(runs: Path) -> Iterator[str]:
    """The name of a file by which workers tell this folder from one of the same path on a disk of their own."""
    path = runs / f".driver.{secrets.token_hex(8)}"
    write_atomically(path, b"")
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    if CLUSTER.missing:
        raise ParameterError("scheduler", scheduler, f"needs Dask: {CLUSTER.advice}")
    from distributed import Client

    is_file = _is_file(scheduler)
    if is_file and not Path(scheduler).is_file():
        problem = f"no such file; `dask scheduler --scheduler-file {scheduler}` writes it"
        raise ParameterError("scheduler", scheduler, problem)
    for logger in ("distributed", "distributed.client"):  # we say the same in one line
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    where = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    try:
        client = Client(**where, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ParameterError("scheduler", scheduler, f"no scheduler answers ({error})") from None
    try:
        several = [worker["name"] for worker in _workers(client) if worker["nthreads"] > 1]
        if several:
            problem = f"worker {several[0]} has several threads: start workers with `dask worker --nthreads 1`"
            raise ParameterError("scheduler", scheduler, problem)
        yield client
    finally:
        client.close(timeout=10 * PAUSE)


def _count(client: Any) -> int:
    try:
        return len(_workers(client))
    except GONE:
        return 0


def _workers(client: Any) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


class _Ready(NamedTuple):
    place: Workplace
    shared: bool  # it sees the output folder of the driver
    folder: tempfile.TemporaryDirectory[str]  # for plug-ins, and for records if it does not; goes with this process


_ready: dict[object, _Ready] = {}  # of this worker, by what it was told: the latest alone


def _work(parcel: _Parcel) -> _Done:
    place, shared, _ = _workplace(parcel)
    networks = place.job.networks
    if not shared and parcel.network is not None:
        write_training(networks, *parcel.network)
    while (record := place.work(parcel.order)) is None and not place.job.over():  # one that died may have left its lock
        time.sleep(10 * PAUSE)
    if shared or record is None:
        return _Done(record)
    if isinstance(record, Training):
        return _Done(record, network=_kept(networks, record.id))
    arrays = read_arrays(place.job.runs / f"{record.id}.json")
    return _Done(record, arrays, _kept(networks, str(record.identity.training)))


def _workplace(parcel: _Parcel) -> _Ready:
    """Where this worker does the runs of a job."""
    key = (parcel.job, parcel.plugins)
    if key not in _ready:
        while _ready:  # first: whatever fails below, what was there before is gone
            _ready.popitem()[1].folder.cleanup()
        forget_plugins()
        temporary = tempfile.TemporaryDirectory(prefix="marginbench-", ignore_cleanup_errors=True)
        folder = Path(temporary.name)
        plugins = [luggage.unpack(folder / str(number)) for number, luggage in enumerate(parcel.plugins)]
        job: Job = pickle.loads(parcel.job)
        shared = (job.runs / parcel.token).is_file()
        data_dir = data_folder(job.options.data_dir)
        place = get_ready(
            job if shared else replace(job, runs=folder, networks=folder / NETWORKS),
            plugins,
            resolve_device(job.options.device),
            data_dir if data_dir.is_dir() else data_folder(),
        )
        _ready[key] = _Ready(place, shared, temporary)
    return _ready[key]
