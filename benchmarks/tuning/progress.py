"""How far a tuning is, as messages of a logger, with the time that is left."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from marginbench.benchmarks.records.tuning import Trial
from marginbench.benchmarks.runs.console import Step
from marginbench.benchmarks.runs.interrupt import check_interrupted
from marginbench.benchmarks.runs.progress import clock
from marginbench.methods.words import counted

log = logging.getLogger(__name__)


class TrialProgress:
    """Reports every trial that ends.

    Args:
        left: trials by row that are still to do.
    """

    def __init__(self, left: Mapping[str, int], workers: int, aloud: bool) -> None:
        self._left, self._workers = dict(left), workers
        self._level = logging.INFO if aloud else logging.DEBUG
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._done, self._total, self._began = 0, sum(left.values()), time.monotonic()

    def known(self, row: str, trial: Trial) -> None:
        """A trial of an earlier call: how long one takes is known from it."""
        self._seconds[row].append(trial.seconds)
        self._left[row] -= 1
        self._total -= 1

    def dropped(self, row: str) -> None:
        """Another process does this row."""
        self._total -= self._left.pop(row)

    def ended(self, row: str, trial: Trial, best: Trial | None) -> None:
        self._seconds[row].append(trial.seconds)
        self._left[row] -= 1
        self._done += 1
        text = f"{row:<20} trial {trial.number:<3} {_outcome(trial)}  {trial.setting}"
        if best is not None:
            text += f"  (best so far: trial {best.number})"
        check_interrupted()
        self._say(f"[{self._done}/{self._total}] {text}  ETA {self._eta()}", text)

    def say(self, text: str, last: bool = False) -> None:
        self._say(text, text, last)

    def _say(self, line: str, text: str, last: bool = False) -> None:
        who = counted(self._workers, "worker")
        step = Step(text, self._done, self._total, self._eta(), who, None, last)
        log.log(self._level, "%s", line, extra={"step": step})

    def _eta(self) -> str:
        """From the mean of each row so far, or of all rows for one not yet seen."""
        means = {row: fmean(seconds) for row, seconds in self._seconds.items()}
        if not means:
            return "?"
        typical = fmean(means.values())
        return clock(sum(count * means.get(row, typical) for row, count in self._left.items()) / self._workers)


def _outcome(trial: Trial) -> str:
    if trial.status == "failed":
        return f"FAILED {trial.error}"
    shown = [("clean", trial.clean_accuracy), ("robust", trial.robust_accuracy)]
    text = "  ".join(f"{name} {value:.1%}" for name, value in shown if value is not None)
    return f"{text}  as trial {trial.repeats}" if trial.repeats is not None else f"{text}  {trial.seconds:.1f} s"
