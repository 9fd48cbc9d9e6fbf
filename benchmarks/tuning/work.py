"""What a call of `tune` is about: the rows, the data without test images, the folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from marginbench.benchmarks.data.dataset import Dataset, data_folder
from marginbench.benchmarks.machine.budget import parse_size
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import digest, ensure_writable
from marginbench.benchmarks.plugins import load_plugins
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import NETWORKS
from marginbench.benchmarks.runs.choice import choose_methods, split_settings
from marginbench.benchmarks.runs.job import Job, finished
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.plan import Cell, Row, make_plan, take_shard
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import MOST_SEEDS, Suite, load_suite
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tuning.judge import judged_on
from marginbench.benchmarks.tuning.options import TuneOptions
from marginbench.methods import Method, spec_of
from marginbench.methods.errors import ParameterError

TUNING, TRIALS, STUDIES, LOCKS = "tuning", "trials", "studies", "locks"  # names of folders; trials are no `runs`


@dataclass(frozen=True)
class Work:
    """A tuning: all that its trials have in common."""

    options: TuneOptions
    job: Job  # its suite is that on validation images
    suite: Suite
    data: Dataset  # validation images stand in the place of test images
    rows: list[Method]
    folder: Path

    @property
    def repetition(self) -> int:
        """Seed of all trainings, which no row of a table has: `run_all` refuses so many."""
        return MOST_SEEDS + self.options.seed

    @property
    def rules(self) -> dict[str, str]:
        """What the studies of all rows have in common, beside the options; see `study.Protocol`."""
        judged = self.job.suite.fingerprint
        return {"trained_by": digest(self.suite.recipe), "judged_by": judged, "data": self.data.fingerprint}

    def cell(self, row: Row) -> Cell:
        return make_plan(self.job.suite, [row], [self.repetition], self.data.fingerprint)[0]

    def known(self, cell: Cell) -> Record | None:
        """The record of a cell that has ended before."""
        return finished(self.job.runs / f"{cell.id}.json", self.job)

    @contextmanager
    def lock(self, row: str) -> Iterator[bool]:
        """A block in which this process alone tunes the row; yields whether it got it."""
        with lock(self.folder / LOCKS, digest(row), row, self.repetition) as got:
            yield got


def prepare(options: TuneOptions) -> Work:
    """Find out what there is to tune.

    Raises:
        ParameterError: an objective that the suite has no measure of.
        MarginbenchError: other wrong input.
    """
    run = options.run
    load_plugins(run.plugin)
    of_suite, of_methods = split_settings(run.set)
    suite = derive(load_suite(str(run.suite)), of_suite)
    if options.objective != "validation_accuracy" and not suite.evaluation.epsilon:
        problem = f"suite {suite.name} is of sentences, of which nothing is attacked: validation_accuracy is for them"
        raise ParameterError("objective", options.objective, problem)
    rows = choose_methods(options.methods, suite, of_methods)
    rows = take_shard(sorted(rows, key=lambda method: method.info.key != BASELINE), run.shard)
    device, data_dir = resolve_device(run.device), data_folder(run.data_dir)
    judged = judged_on(suite, options.objective)
    data = judged.load_data(data_dir).to(device)
    out = Path(run.out).expanduser()
    folder = out / suite.name / TUNING / options.name
    told = replace(run, methods=[spec_of(method) for method in rows], data_dir=data_dir)
    memory = None if run.memory is None else parse_size(run.memory)
    job = Job(told, judged, folder / TRIALS, folder.parent / NETWORKS, memory)  # tunings share trainings
    for needed in (job.runs, job.networks, folder / STUDIES, folder / LOCKS):
        ensure_writable(needed)
    return Work(options, job, suite, data, rows, folder)
