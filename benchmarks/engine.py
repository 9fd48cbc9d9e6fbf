"""Runs what is left of a plan and writes the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from marginbench.benchmarks.data import data_folder
from marginbench.benchmarks.environment import resolve_device
from marginbench.benchmarks.plan import choose_methods, make_plan
from marginbench.benchmarks.progress import Eta, reporting
from marginbench.benchmarks.store import Record, ensure_writable, read_record, record_paths
from marginbench.benchmarks.suite import load_suite
from marginbench.benchmarks.tables import write_tables
from marginbench.benchmarks.workers import choose_jobs, run_here, run_in_workers
from marginbench.methods import MarginbenchError


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_all` did."""

    table: pd.DataFrame
    records: list[Record]  # of this suite as it is now
    files: list[Path]  # leaderboard.{md,csv,tex,json} and claims.md
    runs: Path  # folder of the records
    repeated: int
    resumed: int  # runs that had a record already


def run_all(
    suite: str = "digits",
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "auto",
    out: str | Path = "results/local",
    settings: Sequence[str] = (),
    fresh: bool = False,
    jobs: int | None = 1,
    data_dir: str | Path | None = None,
) -> Outcome:
    """Train and evaluate every method with every seed, and write the leaderboard. Finished runs are not repeated.

    Args:
        suite: name of a built-in suite, or path of a TOML file.
        methods: spec strings; default: the suite's list, else all registered methods.
        seeds: repetitions; default: the suite's.
        device: auto, cpu or cuda.
        out: folder for records and tables.
        settings: METHOD.FIELD=VALUE, applied to every named method.
        fresh: repeat finished runs; a record is replaced when its new run has ended.
        jobs: processes that share the cores; 1 stays in this one, None chooses. A script that asks for more than one
            must guard its entry with `if __name__ == "__main__":`.
        data_dir: folder of data sets. Default: $MARGINBENCH_DATA, else marginbench in the user's cache folder.

    Raises:
        MarginbenchError: wrong input, found before the first run starts.
    """
    chosen_suite = load_suite(suite)
    chosen = choose_methods(methods, chosen_suite, settings)
    target = resolve_device(device)
    if seeds is not None and seeds < 1:
        raise MarginbenchError(f"--seeds {seeds}: must be at least 1")
    sets = data_folder(data_dir)
    data = chosen_suite.load_data(sets).to(target)
    plan = make_plan(chosen_suite, chosen, range(seeds or chosen_suite.seeds), data.fingerprint)
    folder = Path(out) / chosen_suite.name
    runs = folder / "runs"
    ensure_writable(runs)
    records = {record.id: record for record in map(read_record, record_paths([runs]))}
    todo = [cell for cell in plan if fresh or cell.id not in records]
    workers = choose_jobs(jobs, len(todo), target)
    with reporting(len(todo), workers) as report:
        eta = Eta(todo, workers)
        if todo:
            work = (todo, chosen_suite, data, runs)
            for record in run_here(*work) if workers == 1 else run_in_workers(*work, workers, sets):
                records[record.id] = record
                report.finished(record, eta.finished(record))
    current = [r for r in records.values() if r.identity["suite"] == chosen_suite.fingerprint]
    table, files = write_tables(current, folder)
    return Outcome(table, current, files, runs, len(todo), len(plan) - len(todo))
