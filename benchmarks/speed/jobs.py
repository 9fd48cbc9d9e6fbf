"""What worker processes gain: the same runs by one job on one core, one on all cores, and one job for each core.

    python -m marginbench.benchmarks.speed.jobs [--suite digits] [--methods ce,svm,cure,focal] [--seeds 3] [--rounds 1]

Each is a `marginbench run-all` of its own, start included, into an empty folder, one after the other in each round; the
machine should have nothing else to do. One job on all cores uses them by threads.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from tabulate import tabulate

from marginbench.benchmarks.machine.device import CORES

COMMAND = [sys.executable, "-c", "from marginbench.benchmarks.cli import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--methods", default="ce,svm,cure,focal", help="SPEC[,SPEC...]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    words = parser.parse_args()

    ways = {
        "1 job on 1 core": (1, CORES[:1]),
        f"1 job on {len(CORES)} cores": (1, CORES),
        f"{len(CORES)} jobs on {len(CORES)} cores": (len(CORES), CORES),
    }
    run_all = ["run-all", "--suite", words.suite, "--methods", words.methods, "--seeds", str(words.seeds)]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(words.rounds):
        for name, (jobs, cores) in ways.items():
            times[name].append(seconds([*run_all, "--device", "cpu", "--jobs", str(jobs)], cores))
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = medians[list(ways)[-1]]
    rows = [(name, value, value / best) for name, value in medians.items()]
    print(tabulate(rows, ("", "seconds", "times the last"), tablefmt="github", floatfmt=("", ".1f", ".2f")))


def seconds(arguments: Sequence[str], cores: Sequence[int]) -> float:
    """Wall time of a command of marginbench that may use these cores."""
    with tempfile.TemporaryDirectory() as folder:
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # children inherit it
        try:
            start = time.perf_counter()
            subprocess.run([*COMMAND, *arguments, "--out", folder], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start
        finally:
            os.sched_setaffinity(0, here)


if __name__ == "__main__":
    main()
