"""The networks below some folders: what there is, and which of them a name means."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marginbench.benchmarks.records.reader import read_folders
from marginbench.benchmarks.records.training import NETWORKS, Training, network_path, read_training
from marginbench.benchmarks.records.tuning import TUNED, Tuning
from marginbench.benchmarks.runs.plan import Row
from marginbench.benchmarks.runs.progress import size
from marginbench.benchmarks.suites.schema import MOST_SEEDS
from marginbench.benchmarks.training.load import method_of, training_paths
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError, suggest


def table(folders: Sequence[Path]) -> str:
    """One line for each training: row, seed, size, where its file is, and its hash.

    Raises:
        MarginbenchError: no such folder, or no training in it.
    """
    from tabulate import tabulate

    paths = [path for folder in folders for path in training_paths(folder)]
    if not paths:
        raise MarginbenchError(f"{', '.join(map(str, folders))}: no networks; `marginbench run-all` trains some")
    rows: list[tuple[object, ...]] = []
    total = 0
    for path in paths:
        try:
            training = read_training(path)
        except MarginbenchError as error:
            rows.append(("?", "", "", "", str(error), ""))
            continue
        file = network_path(path.parent, training.id)
        there = file.is_file()
        total += file.stat().st_size if there else 0
        state = _size(file, training) if there else _why_not(training)
        rows.append((training.method, training.repetition, training.suite, state, file, (training.sha256 or "-")[:12]))
    rows.sort(key=lambda row: tuple(map(str, (row[2], row[0], row[1]))))
    lines = tabulate(rows, ("row", "seed", "suite", "size", "file", "sha256"), tablefmt="github")
    return f"{lines}\n\n{len(rows)} trainings, {size(total)} on disk."


def _size(file: Path, training: Training) -> str:
    found = file.stat().st_size
    return size(found) if found == training.size else f"{size(found)}, damaged"


def _why_not(training: Training) -> str:
    if training.status == "failed":
        return "failed"
    return "discarded" if training.discarded else "missing"


@dataclass(frozen=True)
class Kept:
    """A training, and a row that its network is of."""

    training: Training
    folder: Path  # of its file
    tuning: Tuning | None  # of the row, if that is tuned

    @property
    def name(self) -> str:
        """Of the row."""
        return self.training.method if self.tuning is None else self.tuning.name

    @property
    def row(self) -> Row:
        """As plans have it.

        Raises:
            MarginbenchError: the method is not registered: its plug-in has to be loaded.
        """
        method = method_of(self.training)
        return Row(method) if self.tuning is None else Row(method, self.tuning.recipe, self.tuning)

    @property
    def of_row(self) -> bool:
        """It is no trial of a tuning."""
        return self.training.repetition < MOST_SEEDS


def named(run: str, folder: Path) -> list[Kept]:
    """The networks that an id, or the beginning of one, or the name of a row means: of a row, all seeds.

    Raises:
        ParameterError: none, or ids of several.
    """
    every = list(_kept(folder))
    of_row = [one for one in every if one.of_row and one.name == run]
    by_id = [one for one in every if one.training.id.startswith(run)]
    ids = {one.training.id for one in by_id}
    if of_row or len(ids) == 1:
        return of_row or by_id
    rows = {one.name for one in every if one.of_row}
    advice = suggest(run, rows)
    if run.endswith(TUNED) and not any(row.endswith(TUNED) for row in rows):
        advice = "tuned rows have their names once `run-all --tuned` has evaluated them"
    problem = f"{len(ids)} ids begin so" if ids else f"no network of that row or id in {folder}: {advice}"
    raise ParameterError("run", run, problem)


def _kept(folder: Path) -> Iterator[Kept]:
    """Every training with each row whose records are of it, or of its method where there are none yet.

    Those of the folder itself come first; there may be other output folders, and tunings, below it.
    """
    rows: dict[str, dict[str, Tuning | None]] = defaultdict(dict)
    for record in read_folders([folder]).records.values():
        if record.identity.training is not None:
            rows[record.identity.training][record.method] = record.tuning
    for path in sorted(training_paths(folder), key=lambda path: path.parent != folder / NETWORKS):
        with contextlib.suppress(MarginbenchError):
            training = read_training(path)
            for tuning in rows[training.id].values() or [None]:
                yield Kept(training, path.parent, tuning)
