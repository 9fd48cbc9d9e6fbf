"""What worker processes gain: the same runs by one job on one core, one on all cores, and one job for each core.

Each is a `marginbench run-all` of its own, start included, into an empty folder, one after the other in each round; the
machine should have nothing else to do. One job on all cores uses them by threads.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from time import perf_counter

from marginbench.benchmarks.machine.device import CORES
from marginbench.benchmarks.speed import turns

COMMAND = [sys.executable, "-c", "from marginbench.benchmarks.cli import main; main()"]


def main() -> None:
    seeds = turns.Option(3, "trainings of each method")
    words = turns.parse(__doc__, suite="digits", methods="ce,svm,cure,focal", seeds=seeds, rounds=1)
    everywhere = f"on {len(CORES)} cores"
    ways = {
        "1 job on 1 core": partial(run_on, CORES[:1], 1),
        f"1 job {everywhere}": partial(run_on, CORES, 1),
        f"{len(CORES)} jobs {everywhere}": partial(run_on, CORES, len(CORES)),
    }
    command = ["run-all", "--suite", words.suite, "--methods", words.methods, "--seeds", str(words.seeds)]
    print(report(turns.take_turns(ways, [command] * words.rounds, perf_counter)))


def report(race: turns.Turns[None]) -> str:
    """Seconds of each way, also relative to the last."""
    medians = {name: statistics.median(seconds) for name, seconds in race.seconds.items()}
    best = list(medians.values())[-1]
    rows = [(name, value, value / best) for name, value in medians.items()]
    return turns.table(rows, ("", "seconds", "times the last"), ("", ".1f", ".2f"))


def run_on(cores: Sequence[int], jobs: int, arguments: Sequence[str]) -> None:
    """A command of marginbench that may use these cores, into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # children inherit it
        try:
            options = ["--device", "cpu", "--jobs", str(jobs), "--out", folder]
            subprocess.run([*COMMAND, *arguments, *options], check=True, stdout=subprocess.DEVNULL)
        finally:
            os.sched_setaffinity(0, here)


if __name__ == "__main__":
    main()
