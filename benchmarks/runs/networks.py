"""The networks below some folders: what there is, and which of them a name means."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from marginbench.benchmarks.records.training import Training, network_path, read_training
from marginbench.benchmarks.runs.progress import size
from marginbench.benchmarks.training.load import training_paths
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


def named(run: str, folder: Path) -> list[Training]:
    """The trainings that an id, or the beginning of one, or the name of a row means: of a row, all seeds.

    Raises:
        ParameterError: none, or ids of several.
    """
    trainings = list(_readable(training_paths(folder)))
    of_row = [training for training in trainings if training.method == run]
    by_id = [training for training in trainings if training.id.startswith(run)]
    if of_row or len(by_id) == 1:
        return of_row or by_id
    rows = sorted({training.method for training in trainings})
    problem = (
        f"{len(by_id)} ids begin so" if by_id else f"no network of that row or id in {folder}: {suggest(run, rows)}"
    )
    raise ParameterError("run", run, problem)


def _readable(paths: Iterable[Path]) -> Iterable[Training]:
    for path in paths:
        try:
            yield read_training(path)
        except MarginbenchError:
            continue
