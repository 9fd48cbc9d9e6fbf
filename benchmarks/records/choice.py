"""Which of its trials a tuning has chosen, and by which rule."""

import math
from collections.abc import Sequence
from typing import Any

from marginbench.benchmarks.records.tuning import Objective, Pick, Trial
from marginbench.benchmarks.statistics.fronts import front
from marginbench.methods import MarginbenchError
from marginbench.methods.words import counted

RULES: dict[Pick, str] = {
    "floor": "the most robust of the front whose clean accuracy reaches the floor, or else the one with the largest",
    "knee": "of the front, the one nearest to the best of both, each scaled to [0, 1] over the front",
    "clean": "the one of the front with the largest clean accuracy",
    "robust": "the one of the front with the largest robust accuracy",
}
LARGEST = "the trial with the largest value, of equal ones the first"


def choose(trials: Sequence[Trial], objective: Objective, floor: float, pick: Pick) -> tuple[Trial, str]:
    """The chosen trial and the rule that chose it, in words. Of equal trials it is the first: trial 0 is the default.

    Raises:
        MarginbenchError: all trials failed.
    """
    done = [trial for trial in trials if trial.status == "done"]
    if not done:
        raise MarginbenchError(f"none of {counted(len(trials), 'trial')} ended well; the first: {trials[0].error}")
    if objective != "pareto":
        return max(done, key=lambda trial: (_known(trial.value), -trial.number)), LARGEST
    points = [(_known(trial.clean_accuracy), _known(trial.robust_accuracy)) for trial in done]
    on_front = [trial for trial, best in zip(done, front(points), strict=True) if best]
    return _picked(on_front, floor, pick), RULES[pick]


def rules_of(objective: Objective) -> dict[str, Pick]:
    """The rules in words, with what each picks; where there is one value, the largest is chosen in any case."""
    return {words: pick for pick, words in RULES.items()} if objective == "pareto" else {LARGEST: "floor"}


def outcome(trials: Sequence[Trial], objective: Objective, floor: float, pick: Pick) -> dict[str, Any]:
    """What follows from the trials of a row, by the key of `Tuning`.

    Raises:
        MarginbenchError: all trials failed.
    """
    chosen, rule = choose(trials, objective, floor, pick)
    return {
        "chosen": chosen.number,
        "method": chosen.method,
        "recipe": chosen.recipe,
        "rule": rule,
        "trials": len(trials),
        "distinct": len({trial.setting for trial in trials}),
        "failed": sum(trial.status == "failed" for trial in trials),
        "seconds": round(sum(trial.seconds for trial in trials), 3),
        "passes": sum(trial.passes for trial in trials),
        "date": max(trial.finished for trial in trials),
    }


def _picked(trials: Sequence[Trial], floor: float, pick: Pick) -> Trial:
    def clean(trial: Trial) -> float:
        return _known(trial.clean_accuracy)

    def robust(trial: Trial) -> float:
        return _known(trial.robust_accuracy)

    if pick == "floor" and (enough := [trial for trial in trials if clean(trial) >= floor]):
        return max(enough, key=lambda trial: (robust(trial), clean(trial), -trial.number))
    if pick == "robust":
        return max(trials, key=lambda trial: (robust(trial), clean(trial), -trial.number))
    if pick != "knee":
        return max(trials, key=lambda trial: (clean(trial), robust(trial), -trial.number))

    def scaled(values: Sequence[float], value: float) -> float:
        low, high = min(values), max(values)
        return (value - low) / (high - low) if high > low else 1.0

    cleans, robusts = [clean(trial) for trial in trials], [robust(trial) for trial in trials]

    def distance(trial: Trial) -> float:
        return math.hypot(1 - scaled(cleans, clean(trial)), 1 - scaled(robusts, robust(trial)))

    return min(trials, key=lambda trial: (distance(trial), trial.number))


def _known(value: float | None) -> float:
    return math.nan if value is None else value
