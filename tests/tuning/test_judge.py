"""What a trial is worth, and which one is chosen."""

from typing import Any

import pytest

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.records.choice import choose
from marginbench.benchmarks.records.tuning import Trial
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tuning.judge import WORST, Judge, judged_on
from marginbench.methods import MarginbenchError


def trial(number: int, clean: float | None, robust: float | None = None, judge: Judge | None = None) -> Trial:
    values = judge.values(clean, robust) if judge is not None and clean is not None else [clean or 0.0]
    facts: dict[str, Any] = {"clean_accuracy": clean, "robust_accuracy": robust, "value": values[0]}
    status: Any = "failed" if clean is None else "done"
    return Trial(number=number, method=f"m{number}", status=status, error="diverged", finished="2026", **facts)


def test_the_floor_parts_the_robust_from_the_inaccurate() -> None:
    judge = Judge("robust_accuracy", "linf", 0.9)
    assert judge.values(0.95, 0.4) == [0.4] and judge.values(0.9, 0.0) == [0.0]
    below = judge.values(0.89, 1.0), judge.values(0.5, 1.0)
    assert judge.failed < below[1] < below[0] < [0.0]  # the nearer to the floor, the better; a failure is the worst
    assert judge.failed == [WORST] and Judge("pareto", "l2", 0.9).failed == [WORST, WORST]


def test_of_equal_trials_the_first_is_chosen() -> None:
    judge = Judge("validation_accuracy", "linf", 0.0)
    trials = [trial(0, 0.9), trial(1, None), trial(2, 0.9)]
    assert choose(trials, judge.objective, judge.floor, "floor")[0].number == 0
    with pytest.raises(MarginbenchError, match="none of 1 trial ended well; the first: diverged"):
        choose([trial(0, None)], judge.objective, judge.floor, "floor")


@pytest.mark.parametrize(("pick", "number"), [("floor", 2), ("clean", 0), ("robust", 4), ("knee", 3)])
def test_each_rule_picks_from_the_front(pick: Any, number: int) -> None:
    judge = Judge("pareto", "linf", 0.9)
    points = [(1.0, 0.0), (0.95, 0.05), (0.92, 0.2), (0.88, 0.6), (0.5, 0.7), (0.87, 0.59), (0.99, None)]
    trials = [trial(k, clean, robust, judge) for k, (clean, robust) in enumerate(points) if robust is not None]
    assert choose(trials, judge.objective, judge.floor, pick)[0].number == number


def test_the_knee_is_that_of_scaled_accuracies_and_the_floor_is_reached_at_the_floor() -> None:
    """Scaled to the front they are 1, 7/9, 0 and 0, 5/6, 1: the second is the nearest to (1, 1), unscaled the third."""
    judge = Judge("pareto", "linf", 0.97)
    trials = [trial(k, *of, judge) for k, of in enumerate([(0.99, 0.1), (0.97, 0.6), (0.9, 0.7)])]
    for pick in ("knee", "floor"):
        assert choose(trials, judge.objective, judge.floor, pick)[0].number == 1


def test_the_most_accurate_is_picked_where_nothing_reaches_the_floor() -> None:
    judge = Judge("pareto", "linf", 0.99)
    trials = [trial(0, 0.5, 0.5, judge), trial(1, 0.7, 0.1, judge)]
    assert choose(trials, judge.objective, judge.floor, "floor")[0].number == 1


@pytest.mark.parametrize("objective", ["validation_accuracy", "robust_accuracy"])
def test_trials_have_the_trainings_of_the_suite(objective: Any) -> None:
    suite = load_suite("digits")
    judged = judged_on(suite, objective)
    assert (judged.recipe, judged.trained_for) == (suite.recipe, suite.trained_for)
    assert judged.data.evaluate == "validation" and judged.fingerprint != suite.fingerprint
    assert judged.evaluation.attacks == (PRESETS["quick"] if objective == "robust_accuracy" else {})
    assert judged.evaluation.points == 200 and not judged.evaluation.certificates and not judged.evaluation.probes
