"""How far the plans in a folder have got: what is done, running, failed and left."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.records.training import NETWORKS, network_path
from marginbench.benchmarks.runs.locks import Holder, holders
from marginbench.benchmarks.runs.plan_files import PLANS, read_plans
from marginbench.benchmarks.runs.progress import clock, size
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
        plan, networks = read_plans(suite), suite.parent / NETWORKS
        at_work = holders(networks) if networks.is_dir() else {}
        training = {run_id: at_work[run.training] for run_id, run in plan.items() if run.training in at_work}
        running = {**training, **holders(suite / "runs")}
        found = (path for path in (suite / "runs").glob("*.json") if path.stem in plan)
        records = {path.stem: path for path in found if path.stem not in running}  # a run that is repeated is running
        failed = dict(_failed(records.values()))
        left = len(plan.keys() - records.keys() - running.keys())
        kept = [path for run in plan.values() if (path := network_path(networks, run.training)).is_file()]
        disk = size(sum(path.stat().st_size for path in kept))
        rows.append((suite, len(records) - len(failed), len(failed), len(running), left, len(kept), disk))
        checkpoints = {run_id: networks / f"{run.training}.ckpt" for run_id, run in plan.items()}
        lines += [f"running: {_progress(who, checkpoints.get(run_id))}" for run_id, who in running.items()]
        lines += [
            f"failed: {plan[run_id].method} seed {plan[run_id].repetition}: {error}" for run_id, error in failed.items()
        ]
    table = tabulate(rows, ("suite", "done", "failed", "running", "left", "networks", "disk"), tablefmt="github")
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


def _progress(who: Holder, checkpoint: Path | None) -> str:
    """How long a run has been in progress, all by the clock of the file system: up to its last sign of life."""
    seconds = who.touched - who.since
    text = f"{who.method} seed {who.repetition} on {who.host}, process {who.pid}, for {clock(seconds)}"
    if who.together > 1:
        text += f", {who.together} trainings at once"
    if checkpoint is None:
        return text
    with contextlib.suppress(FileNotFoundError):  # there is none, or the run has just ended
        age = who.touched - checkpoint.stat().st_mtime
        text += f", last checkpoint {clock(age)} ago"
    return text
