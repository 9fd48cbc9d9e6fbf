"""How far the plans in a folder have got: what is done, running, failed and left."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.runs.locks import Holder, holders
from marginbench.benchmarks.runs.plan_files import PLANS, read_plans
from marginbench.benchmarks.runs.progress import clock
from marginbench.methods import MarginbenchError


def status(folders: Sequence[Path]) -> str:
    """A table of the suites below the folders, and a line for each run that is in progress or failed.

    Raises:
        MarginbenchError: no such folder, or none in which `run-all` worked.
    """
    from tabulate import tabulate

    for folder in folders:
        if not folder.is_dir():
            raise MarginbenchError(f"{folder}: no such folder")
    suites = sorted({path.parent for folder in folders for path in folder.rglob(PLANS) if path.is_dir()})
    if not suites:
        raise MarginbenchError(f"{', '.join(map(str, folders))}: no plan; `marginbench run-all` makes one")
    rows, lines = [], []
    for suite in suites:
        plan, running = read_plans(suite), holders(suite / "runs")
        found = (path for path in (suite / "runs").glob("*.json") if path.stem in plan)
        records = {path.stem: path for path in found if path.stem not in running}  # a run that is repeated is running
        failed = dict(_failed(records.values()))
        left = len(plan.keys() - records.keys() - running.keys())
        rows.append((suite, len(records) - len(failed), len(failed), len(running), left))
        lines += [f"running: {_progress(suite / 'runs', run_id, who)}" for run_id, who in running.items()]
        lines += [f"failed: {plan[run_id][0]} seed {plan[run_id][1]}: {error}" for run_id, error in failed.items()]
    table = tabulate(rows, ("suite", "done", "failed", "running", "left"), tablefmt="github")
    return "\n".join([table, *([""] if lines else []), *lines])


def _failed(paths: Iterable[Path]) -> Iterable[tuple[str, str]]:
    for path in sorted(paths):
        try:
            record = read_record(path)
        except MarginbenchError as error:
            yield path.stem, str(error)
            continue
        if record.status == "failed":
            yield record.id, record.error or "no reason given"


def _progress(runs: Path, run_id: str, who: Holder) -> str:
    """How long a run has been in progress, all by the clock of the file system: up to its last sign of life."""
    seconds = who.touched - who.since
    text = f"{who.method} seed {who.repetition} on {who.host}, process {who.pid}, for {clock(seconds)}"
    with contextlib.suppress(FileNotFoundError):  # there is none, or the run has just ended
        age = who.touched - (runs / f"{run_id}.ckpt").stat().st_mtime
        text += f", last checkpoint {clock(age)} ago"
    return text
