"""Some records are made again, in a folder of their own, and compared with what they say."""

import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from marginbench.benchmarks.data.dataset import data_folder
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.differences import UNKNOWN, Difference, differences, measured_elsewhere
from marginbench.benchmarks.records.reader import read_arrays, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import NETWORKS
from marginbench.benchmarks.runs.agreement import Spread, Verdict, contradiction, judge, spread_around
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.measure import derived_metrics
from marginbench.benchmarks.runs.options import VERIFIED, RunOptions
from marginbench.benchmarks.runs.plan import Cell, Row, make_plan
from marginbench.benchmarks.runs.workers import choose_jobs, run_here, run_in_workers
from marginbench.benchmarks.suites.remake import remake
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, create, spec_of
from marginbench.methods.errors import ParameterError, suggest
from marginbench.methods.registry import recreate
from marginbench.methods.words import counted

log = logging.getLogger(__name__)
LINES = 12  # of what may explain a difference


@dataclass(frozen=True)
class Question:
    """What to verify, and how. Raises ParameterError where that makes no sense."""

    folders: Sequence[Path]
    methods: Sequence[str] | None = None  # rows; default: any
    sample: int | None = None  # default: `VERIFIED`, or all of the rows that are named
    seed: int = 0  # another one draws others
    jobs: int | None = None  # worker processes; default: as many as are worth starting
    data_dir: Path | None = None
    suite_dir: Path = Path()  # of what suites name by file
    plugin: Sequence[Path] = ()

    def __post_init__(self) -> None:
        for name in ("sample", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(name, value, "must be at least 1")


@dataclass(frozen=True)
class Verification:
    """What was found."""

    verdicts: list[tuple[str, Verdict]]  # with what was verified: `ce seed 0 of digits`, or a file that is no record
    unlike: list[Difference]  # of the environments, in any of the records
    notes: list[str]

    @property
    def agrees(self) -> bool:
        return all(verdict.answer != "no" for _, verdict in self.verdicts)


@dataclass(frozen=True)
class _Case:
    """A record that is verified, and the run that makes it again."""

    record: Record
    path: Path
    suite: Suite
    spread: Spread
    device: torch.device

    @property
    def name(self) -> str:
        return _name(self.record)

    @property
    def together(self) -> tuple[str, torch.device, int]:
        """Cases that have this in common can share workers."""
        return self.suite.fingerprint, self.device, self.record.environment.threads


def verify(question: Question) -> Verification:
    """Do some runs again, with the threads of their records, and say whether they agree; see `judge` for the rule.

    All files are read. Of the records that count in tables and were trained by marginbench a sample is drawn by hashing
    their ids. Nothing is written below the folders.

    Raises:
        MarginbenchError: wrong input, no records, or data that are not there.
    """
    for path in question.plugin:
        load_plugin(path)
    reading = read_folders(question.folders, check_arrays=True)
    verdicts = [(path.name, Verdict("no", problem)) for path, problem in reading.problems.items()]
    counting = [record for record in current(reading.records.values()) if record.status == "done"]
    trained = [record for record in counting if record.identity.weights is None]
    if not trained and not verdicts:
        raise MarginbenchError(f"{', '.join(map(str, question.folders))}: no records of runs that can be done again")
    chosen = draw(trained, question)
    notes = [f"Sample: {len(chosen)} of {counted(len(trained), 'run')}."]
    if len(counting) < len(reading.records):
        others = counted(len(reading.records) - len(counting), "record")
        notes.append(f"Left out, as failed or marked in tables as old: {others}.")
    if len(counting) > len(trained):
        notes.append(
            "Models that were not trained here were left out: `marginbench evaluate --fresh` measures them again."
        )
    paths = {record.id: path for path, record in reading.records.items()}
    cases = []
    for record in chosen:
        made = _case(record, paths[record.id], counting, question.suite_dir)
        if isinstance(made, _Case):
            cases.append(made)
        else:
            verdicts.append((_name(record), made))
    unlike: dict[Difference, None] = {}  # in their order
    with tempfile.TemporaryDirectory(prefix="marginbench-verify-") as folder:
        for number, (case, verdict, found) in enumerate(_again(cases, Path(folder), question), 1):
            log.info("[%d/%d] %s: %s", number, len(cases), case.name, verdict.answer)
            verdicts.append((case.name, verdict))
            unlike |= dict.fromkeys(found)
    return Verification(verdicts, list(unlike), notes)


def render(found: Verification) -> str:
    """Markdown: what could explain other bits, a line for each record, and how many there are."""
    from tabulate import tabulate

    rows = [(name, verdict.answer, verdict.why) for name, verdict in found.verdicts]
    table = tabulate(rows, ("record", "agrees", "what differs"), tablefmt="github")
    return "\n".join([*_explanations(found.unlike), table, "", *found.notes])


def _explanations(unlike: Iterable[Difference]) -> list[str]:
    known = [f"- {name}: {there} -> {here}" for name, there, here in unlike if there != UNKNOWN]
    unknown = [name for name, there, _ in unlike if there == UNKNOWN]
    if len(known) > LINES:
        known[LINES:] = [f"- and {len(known) - LINES} more"]
    if unknown:
        more = f" and {len(unknown) - LINES} more" if len(unknown) > LINES else ""
        known.append(f"- {UNKNOWN}: {', '.join(unknown[:LINES])}{more}")
    return ["What may explain other bits, in the records -> here:", "", *known, ""] if known else []


def _name(record: Record) -> str:
    return f"{record.method} seed {record.repetition} of {record.suite.name}"


def draw(records: Sequence[Record], question: Question) -> list[Record]:
    """The sample: the first by a hash of the seed and their ids, whatever else is in the folder.

    Raises:
        ParameterError: a row that is not there.
    """
    size = question.sample
    if question.methods is not None:
        there = {record.method for record in records}
        wanted = {name if name in there else spec_of(create(name)) for name in question.methods}
        if missing := sorted(wanted - there):
            raise ParameterError("methods", missing[0], f"no such row in the records: {suggest(missing[0], there)}")
        records = [record for record in records if record.method in wanted]
    elif size is None:
        size = VERIFIED
    return sorted(records, key=lambda record: digest([question.seed, record.id]))[:size]


def _case(record: Record, path: Path, counting: Iterable[Record], folder: Path) -> _Case | Verdict:
    """The case of a record, or why it cannot agree whatever a run would give."""
    try:
        suite = remake(record.suite.settings, folder)
        row = _row(record)
        device = resolve_device("cpu" if record.environment.device == "cpu" else "auto")
    except MarginbenchError as error:
        return Verdict("no", str(error))
    (cell,) = make_plan(suite, [row], [record.repetition], record.identity.data)
    was, here = vars(record.identity), vars(cell.identity)
    if record.identity.training is None:  # from before networks were kept
        was = {**was, "training": here["training"]}
    other = [f"{name} {was[name]!s:.12} -> {here[name]!s:.12}" for name in was if was[name] != here[name]]
    if other:
        return Verdict("no", f"would be another run here: {'; '.join(other)}")
    if wrong := contradiction(record, derived_metrics(read_arrays(path), suite.evaluation, {})):
        return Verdict("no", wrong)
    of_suite = [other for other in counting if other.identity.suite == record.identity.suite]
    return _Case(record, path, suite, spread_around(record, of_suite), device)


def _row(record: Record) -> Row:
    """The row of a record.

    Raises:
        MarginbenchError: its method is not registered.
    """
    spec = record.method if record.tuning is None else record.tuning.method
    return Row(recreate(spec, record.identity.source), record.identity.recipe or {}, record.tuning)


def _again(
    cases: Iterable[_Case], folder: Path, question: Question
) -> Iterator[tuple[_Case, Verdict, list[Difference]]]:
    """The cases in the order in which their runs end."""
    groups: defaultdict[tuple[str, torch.device, int], list[_Case]] = defaultdict(list)
    for case in cases:
        groups[case.together].append(case)
    for number, group in enumerate(groups.values()):
        yield from _group(group, folder / str(number), question)


def _group(group: Sequence[_Case], runs: Path, question: Question) -> Iterator[tuple[_Case, Verdict, list[Difference]]]:
    first = group[0]
    data_dir = data_folder(question.data_dir)
    data = first.suite.load_data(data_dir).to(first.device)
    waiting: dict[str, _Case] = {}
    cells: list[Cell] = []
    for case in group:
        if case.record.identity.data != data.fingerprint:
            yield case, Verdict("no", f"the data are others: {data.fingerprint[:12]} here"), []
            continue
        (cell,) = make_plan(case.suite, [_row(case.record)], [case.record.repetition], data.fingerprint)
        waiting[cell.id] = case
        cells.append(cell)
    runs.mkdir()
    options = RunOptions(data_dir=data_dir, device="cuda" if first.device.type == "cuda" else "cpu", progress=False)
    job = Job(options, first.suite, runs, runs / NETWORKS, threads=first.record.environment.threads)
    jobs = choose_jobs(question.jobs, len(cells), first.device)
    done = run_here(cells, job, data) if jobs == 1 else run_in_workers(cells, job, data, jobs)
    for again in done:
        assert isinstance(again, Record)  # nobody else works in this folder
        case = waiting[again.id]
        unlike = differences(case.record.environment, again.environment)
        unlike += measured_elsewhere(case.record, again.environment)
        anew = read_arrays(runs / f"{again.id}.json")
        yield case, judge(case.record, read_arrays(case.path), again, anew, case.spread, unlike), unlike
